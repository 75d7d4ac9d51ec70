//! What the daemon logs, to standard error. The hook's processes log nothing: they return.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogLevel, Settings};

/// Sends what is logged from now on to standard error.
pub fn start(settings: &Settings) {
    let level = match settings.log_level.unwrap_or_default() {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let log =
        fmt().with_writer(io::stderr).with_max_level(level).with_target(false).with_ansi(false);
    // A log that can't be written must not end the daemon: what tells of it would go to the same place.
    let log = log.log_internal_errors(false);
    match settings.log_format.unwrap_or_default() {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
