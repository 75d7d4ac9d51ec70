//! The messages of NRI's `api.proto`, generated from this crate's own `proto/nri.proto`.
//!
//! Fields keep their names in the `.proto` (`CDI_devices`, but `type_`), and an absent message is
//! an empty [`MessageField`]. What the `.proto` does not name is carried along unread.

pub use protobuf::{EnumOrUnknown, Message, MessageField};

pub use self::generated::nri::*;
pub(crate) use self::generated::nri_ttrpc::{Plugin as Service, RuntimeClient, create_plugin};

#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/index.rs"));
}
