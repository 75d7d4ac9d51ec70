//! Moments at which something is interrupted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

/// Numbers that are the same for the same seed (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    /// With `INTERRUPT_SEED` a failure can be repeated, as far as a moment can be.
    pub(crate) fn seeded() -> Result<Self> {
        let seed = match std::env::var("INTERRUPT_SEED") {
            Ok(seed) => seed.parse()?,
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64 | 1,
        };
        println!("INTERRUPT_SEED={seed}");
        Ok(Self(seed))
    }

    /// A moment in `span`.
    pub(crate) fn moment(&mut self, span: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        span.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }
}
