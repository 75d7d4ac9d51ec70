//! [`Fields`]: an object of Kubernetes' API that is taken apart until nothing is left.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// The fields of an object that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    at: String,
    left: Map<String, Value>,
}

impl Fields {
    /// Those of `value`, which is found `at` a path.
    pub(super) fn of(at: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(left) => Ok(Self { at: at.to_owned(), left }),
            other => bail!("{at} is no object: {other}"),
        }
    }

    /// A field, if it is there.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A field that is an object; an empty one if it is not there.
    pub(super) fn object(&mut self, name: &str) -> Result<Self> {
        let at = format!("{}.{name}", self.at);
        Self::of(&at, self.take(name).unwrap_or_else(|| Value::Object(Map::new())))
    }

    /// A field that is a list of objects; empty if it is not there.
    pub(super) fn objects(&mut self, name: &str) -> Result<Vec<Self>> {
        let at = format!("{}.{name}", self.at);
        let items = match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => bail!("{at} is no list: {other}"),
        };
        items.into_iter().map(|item| Self::of(&at, item)).collect()
    }

    /// A field that is a string, a number or a truth value.
    pub(super) fn get<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        let value = self.take(name).map(serde_json::from_value);
        value.transpose().with_context(|| format!("{}.{name}", self.at))
    }

    /// The same, and it must be there.
    pub(super) fn need<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.get(name)?.with_context(|| format!("{}.{name} is missing", self.at))
    }

    /// Passes over fields that are not the kubelet's business, or are its defaults.
    pub(super) fn pass_over(&mut self, names: &[&str]) {
        self.left.retain(|name, _| !names.contains(&name.as_str()));
    }

    /// Was everything taken?
    pub(super) fn finish(self) -> Result<()> {
        let left: Vec<_> = self.left.keys().collect();
        ensure!(left.is_empty(), "{}: {left:?} would be lost", self.at);
        Ok(())
    }
}
