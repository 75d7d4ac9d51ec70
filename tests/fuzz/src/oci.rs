//! States and bundles: what is read of them is what they say.

use nri_ldcache::fuzzing;
use nri_ldcache::oci::State;
use nri_ldcache::policy::{Policy, decide};
use serde_json::Value;

/// Reads one document as everything that it may be.
pub fn check(data: &[u8]) {
    let value = serde_json::from_slice::<Value>(data).ok();
    let said = |pointer| value.as_ref().and_then(|value| value.pointer(pointer)?.as_str());
    // serde takes arrays for structures, too; their fields have no names.
    let named = value.as_ref().is_some_and(Value::is_object);
    match State::read(data, "fuzz") {
        Ok(state) => {
            let absolute = state.root.as_ref().is_some_and(|root| root.is_absolute());
            assert!(absolute || !state.bundle.as_os_str().is_empty());
            if named {
                assert_eq!(state.id, said("/id").unwrap_or_default());
                assert_eq!(state.bundle.to_str(), said("/bundle").or(Some("")));
                assert_eq!(state.root.as_ref().and_then(|root| root.to_str()), said("/root"));
            }
        }
        Err(error) => {
            assert!(format!("{error:#}").starts_with("read state fuzz: "), "{error:#}")
        }
    }
    if let (Ok(root), true) = (fuzzing::root(data), named) {
        assert!(said("/root/path") == root.to_str() || said("/root").is_none());
    }
    if let Ok((pod, container)) = fuzzing::container(data) {
        super::policy::decision_holds(&Policy::default(), &pod, &container);
    }
    if let Ok(pod) = fuzzing::pod(data) {
        decide(&Policy::default(), &pod, &Default::default());
    }
}
