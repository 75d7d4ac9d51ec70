//! Who a plugin is, and in which order it is called.

use std::fmt;

use crate::Error;

/// The name of a plugin and its index, which orders the plugins of a node.
///
/// Both are checked here by the strictest rule of all runtimes (NRI 0.12), so that a name which
/// works with one runtime works with the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    index: String,
    name: String,
}

impl Identity {
    /// Takes an index of exactly two digits and a name made of `[A-Za-z0-9_.+-]`.
    ///
    /// # Errors
    ///
    /// [`Error::Identity`] if one of them is anything else.
    pub fn new(index: &str, name: &str) -> Result<Self, Error> {
        if index.len() != 2 || !index.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::Identity(format!("index {index:?} is not two digits")));
        }
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(Error::Identity(format!("name {name:?} is not made of [A-Za-z0-9_.+-]")));
        }
        Ok(Self { index: index.to_owned(), name: name.to_owned() })
    }

    /// Splits the file name of a launched plugin, `10-nri-ldcache`, at its first dash.
    ///
    /// # Errors
    ///
    /// [`Error::Identity`] if there is no dash, or if one of the parts is refused by
    /// [`Identity::new`].
    pub fn from_file_name(file_name: &str) -> Result<Self, Error> {
        let (index, name) = file_name
            .split_once('-')
            .ok_or_else(|| Error::Identity(format!("file name {file_name:?} is not NN-name")))?;
        Self::new(index, name)
    }

    /// The two digits; plugins are called in ascending order.
    pub fn index(&self) -> &str {
        &self.index
    }

    /// The name without the index.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `10-nri-ldcache`, as runtimes and validators print it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_and_a_safe_name() {
        for (index, name) in [("00", "a"), ("99", "A-b_c.d+e"), ("10", "nri-ldcache")] {
            let identity = Identity::new(index, name).unwrap();
            assert_eq!((identity.index(), identity.name()), (index, name));
            assert_eq!(identity.to_string(), format!("{index}-{name}"));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = [
            ("", "a"),
            ("1", "a"),
            ("100", "a"),
            ("1a", "a"),
            ("-1", "a"),
            ("٣", "a"), // two bytes, and a digit, but not an ASCII one
            ("10", ""),
            ("10", "a/b"),
            ("10", "a b"),
            ("10", "ä"),
            ("10", "a\n"),
        ];
        for (index, name) in refused {
            assert!(
                matches!(Identity::new(index, name), Err(Error::Identity(_))),
                "{index} {name}"
            );
        }
    }

    #[test]
    fn a_file_name_splits_at_the_first_dash() {
        let identity = Identity::from_file_name("10-nri-ldcache").unwrap();
        assert_eq!((identity.index(), identity.name()), ("10", "nri-ldcache"));
        for refused in ["", "10", "10-", "-name", "1-name", "name", "100-name"] {
            assert!(Identity::from_file_name(refused).is_err(), "{refused}");
        }
    }
}
