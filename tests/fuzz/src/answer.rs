//! Answers of a jail, which whoever took it over writes: they are read as they are or refused in a line, and can be reported.

use nri_ldcache::fuzzing;
use nri_ldcache::report::{Outcome, Report};

/// What a daemon knows as the maker of a cache.
const ENGINES: [&str; 4] = ["auto", "incremental", "native", "ldconfig"];

/// Reads an answer.
pub fn check(data: &[u8]) {
    let answer = fuzzing::understand(data);
    match &answer {
        Ok(done) => {
            let told = fuzzing::tell(&answer).expect("an answer");
            let again = fuzzing::understand(&told).expect("the same answer");
            assert_eq!(format!("{done:?}"), format!("{again:?}"));
        }
        Err(error) => {
            let reason = format!("{error:#}");
            assert!(!reason.contains(char::is_control), "{reason:?}");
            assert!(reason.chars().count() <= 100 + 10 * data.len(), "{reason:?}");
            let told = fuzzing::tell(&answer).expect("an answer");
            let again = fuzzing::understand(&told).expect_err("a reason");
            assert_eq!(format!("{again:#}"), reason);
        }
    }
    let (report, limit) = fuzzing::report(&answer);
    let text = serde_json::to_vec(&report).expect("a report");
    assert!(text.len() as u64 <= limit, "a report of {} bytes", text.len());
    assert_eq!(serde_json::from_slice::<Report>(&text).ok().as_ref(), Some(&report));
    match report.outcome {
        Outcome::Updated => {
            assert!(answer.is_ok() && ENGINES.contains(&&*report.engine), "{:?}", report.engine);
        }
        Outcome::Failed => assert!(answer.is_err() && report.reason.is_some()),
    }
}
