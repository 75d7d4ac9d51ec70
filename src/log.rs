//! What the daemon logs, to standard error. The hook's processes log nothing: they return.

use std::io;
use std::panic;
use std::process::ExitCode;

use anyhow::Result;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogLevel, Settings};

/// Most bytes of what a pod says that are logged at once.
const SHOWN: usize = 1 << 10;

/// What a pod says, short enough for a line.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push('…');
    }
    text
}

/// Sends what is logged from now on to standard error; in which format, is returned.
pub fn start(settings: &Settings) -> LogFormat {
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
    let format = settings.log_format.unwrap_or_default();
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).init();
            // Who parses the log parses all of it.
            panic::set_hook(Box::new(|panic| {
                let at = panic.location().map(ToString::to_string).unwrap_or_default();
                let said = panic.payload_as_str().unwrap_or_default();
                tracing::error!(at, said, "panicked");
            }));
        }
    }
    format
}

/// How the daemon ends: why, if it fails, is told in a log of JSON as everything else; otherwise it is returned.
pub fn end(format: LogFormat, ended: Result<()>) -> Result<ExitCode> {
    match (ended, format) {
        (Ok(()), _) => Ok(ExitCode::SUCCESS),
        (Err(error), LogFormat::Text) => Err(error),
        (Err(error), LogFormat::Json) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            Ok(ExitCode::FAILURE)
        }
    }
}
