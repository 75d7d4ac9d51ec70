//! [`Exposition`]: the text that a scraper reads.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// What Prometheus had before, and everything reads. Here a counter is described under the name of its samples.
    Text,
}

impl Exposition {
    /// What a client wants that sends this `Accept`: OpenMetrics if it is named at all, for who names it prefers it.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub(super) fn write(self, registry: &Registry) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, registry);
        match self {
            Self::OpenMetrics => text,
            Self::Text => classic(&text),
        }
    }
}

/// OpenMetrics in the older format.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        let counter = |next: &str| next.starts_with("# TYPE ") && next.ends_with(" counter");
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let is_counter = counter(line) || lines.peek().is_some_and(|next| counter(next));
        match described.and_then(|described| described.split_once(' ')) {
            Some((name, rest)) if is_counter => {
                text.extend([&line[.."# HELP ".len()], name, "_total ", rest, "\n"]);
            }
            // Comments of OpenMetrics alone.
            _ if line.starts_with("# UNIT ") || line == "# EOF" => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_under_the_name_of_their_samples() {
        let open = "# HELP a Some counter.\n# TYPE a counter\na_total 1\n# HELP b_seconds Old.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 2\n# EOF\n";
        let text = "# HELP a_total Some counter.\n# TYPE a_total counter\na_total 1\n# HELP b_seconds Old.\n# TYPE b_seconds gauge\nb_seconds 2\n";
        assert_eq!(classic(open), text);
        assert_eq!(Exposition::accepted("*/*"), Exposition::Text);
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Exposition::accepted(accept), Exposition::OpenMetrics);
    }
}
