//! What a jail answers through its pipe: what was done, or why not. Whoever takes over a process in there writes it.

use std::io::{self, PipeReader, Read, Write};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::process::readable;

/// Bytes of an answer: it names every directory that was added, 256 of 4 KiB, and quoted.
const LIMIT: usize = 4 << 20;

/// What ends an answer: there is none in compact JSON.
const END: u8 = b'\n';

/// Answers.
pub(crate) fn tell<T: Serialize>(answer: &Result<T>, mut to: impl Write) -> io::Result<()> {
    let answer = answer.as_ref().map_err(|error| format!("{error:#}"));
    let mut line = serde_json::to_vec(&answer)?;
    line.push(END);
    to.write_all(&line)
}

/// Reads what the jail answers, until it has, or ends.
pub(super) fn listen(mut pipe: PipeReader, deadline: Instant) -> Result<Vec<u8>> {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let spoke = readable(&pipe, deadline).context("poll jail")?;
        ensure!(spoke, "killed, for its time was up");
        let count = pipe.read(&mut buffer).context("read from jail")?;
        if count == 0 {
            return Ok(answer);
        }
        answer.extend_from_slice(&buffer[..count]);
        ensure!(answer.len() <= LIMIT, "its answer is larger than {LIMIT} bytes");
        if answer.ends_with(&[END]) {
            return Ok(answer);
        }
    }
}

/// What it means. The reason of a failure has names of the image in it, and goes to a log or a terminal: it is one line of
/// characters that can be seen.
pub(crate) fn understand<T: DeserializeOwned>(answer: &[u8]) -> Result<T> {
    let reason = match serde_json::from_slice(answer) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(reason)) => reason,
        Err(error) => format!("understand jail: {error}"),
    };
    let seen = |line: String, c: char| match c.is_control() {
        true => line + &c.escape_default().to_string(),
        false => line + c.encode_utf8(&mut [0; 4]),
    };
    Err(anyhow!(reason.chars().fold(String::new(), seen)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;
    use std::thread;
    use std::time::Duration;

    fn heard(bytes: Vec<u8>) -> Result<Vec<u8>> {
        let (reader, mut writer) = pipe().unwrap();
        let speaker = thread::spawn(move || writer.write_all(&bytes));
        let heard = listen(reader, Instant::now() + Duration::from_secs(10));
        drop(speaker.join());
        heard
    }

    #[test]
    fn everything_that_can_be_added_is_heard_and_no_more() {
        let added = vec![format!("/{}", "\\".repeat(4094)); 256];
        let mut told = Vec::new();
        tell(&Ok(&added), &mut told).unwrap();
        assert_eq!(understand::<Vec<String>>(&heard(told).unwrap()).unwrap(), added);
        let error = heard(vec![b'x'; LIMIT + 1]).unwrap_err().to_string();
        assert!(error.contains("larger than 4194304 bytes"), "{error}");
    }

    #[test]
    fn an_answer_ends_with_its_line() {
        let (reader, mut writer) = pipe().unwrap();
        tell(&Ok("done"), &mut writer).unwrap();
        let heard = listen(reader, Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!(understand::<String>(&heard).unwrap(), "done");
        drop(writer);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (reader, _writer) = pipe().unwrap();
        let error = listen(reader, Instant::now()).unwrap_err().to_string();
        assert!(error.contains("time was up"), "{error}");
    }

    #[test]
    fn a_reason_is_one_line() {
        let mut told = Vec::new();
        tell::<()>(&Err(anyhow!("/a\n\u{1b}[2J").context("read \"\u{e4}\"")), &mut told).unwrap();
        let error = understand::<()>(&told).unwrap_err().to_string();
        assert_eq!(error, "read \"\u{e4}\": /a\\n\\u{1b}[2J");
    }
}
