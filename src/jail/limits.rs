//! How much of the machine may be used (getrlimit(2)).

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;

/// Limits this process and what it executes. Where less is allowed already, that stays.
pub(super) fn set(time: Duration) -> nix::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_CPU, time.as_secs().max(1)),
        // ldconfig maps each library as a whole, and those of CUDA have gigabytes; memory of its own is another matter.
        (Resource::RLIMIT_AS, 64 * 1024 * MIB),
        (Resource::RLIMIT_DATA, 512 * MIB),
        // A cache with 100,000 libraries has 10 MiB.
        (Resource::RLIMIT_FSIZE, 64 * MIB),
        (Resource::RLIMIT_NOFILE, 256),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}
