//! The borders and sizes of the source, as the crate's documentation describes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Lines of a file without its tests, and of a function.
const FILE: usize = 350;
const FUNCTION: usize = 60;

/// Who alone may name what: a border that code review would have to watch otherwise.
const BORDERS: [(&str, &[&str]); 5] = [
    ("tokio::", &["src/plugin.rs", "src/plugin/"]),
    (
        "nix::",
        &["src/jail.rs", "src/jail/", "src/ldconfig.rs", "src/oci.rs", "src/root.rs", "src/root/"],
    ),
    ("libc::", &["src/jail/mount_setattr.rs"]),
    ("libc as", &["src/jail/filter.rs", "src/jail/seccomp.rs"]),
    ("unsafe_code", &["src/jail/mount_setattr.rs", "src/jail/process.rs"]),
];

fn sources(below: &str) -> Result<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut open) = (Vec::new(), vec![root.join(below)]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path()));
            open.extend(entries.collect::<Result<Vec<PathBuf>, _>>()?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root)?.to_str().context("a name that is not UTF-8")?;
            found.push((name.to_owned(), fs::read_to_string(&path)?));
        }
    }
    ensure!(!found.is_empty(), "no sources below {below}");
    Ok(found)
}

/// Is `word` in the text, and not as the end of a longer one?
fn names(text: &str, word: &str) -> bool {
    let mut found = text.match_indices(word);
    found.any(|(at, _)| {
        !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn borders_are_kept() -> Result<()> {
    for (name, text) in sources("src")? {
        for (word, allowed) in BORDERS {
            let used = names(without_tests(&text), word);
            let may = allowed.iter().any(|path| name.starts_with(path));
            ensure!(may || !used, "{name} names {word}");
        }
    }
    for (name, text) in sources("src")?.into_iter().chain(sources("tests")?) {
        ensure!(!text.contains("ttrpc::") || name == "tests/tidy.rs", "{name} names ttrpc");
    }
    Ok(())
}

/// The first line of each function, from 1, and how many it has: to the brace at the depth of its `fn`, as rustfmt sets it.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let (mut found, mut open) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        let depth = line.len() - code.len();
        let function =
            !code.starts_with("//") && (code.starts_with("fn ") || code.contains(" fn "));
        match open {
            None if function => open = Some((number, depth)),
            Some((first, start)) if depth == start && (code == "}" || code.ends_with(';')) => {
                found.push((first + 1, number - first + 1));
                open = None;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn functions_are_measured_with_their_signatures() {
    let text = "fn a(\n    x: u8,\n) -> u8 {\n    x\n}\n\npub fn b() {\n}\n";
    assert_eq!(functions(text), [(1, 5), (7, 2)]);
}

#[test]
fn files_and_functions_are_small() -> Result<()> {
    for (name, text) in
        ["src", "nri/src", "tests"].map(sources).into_iter().collect::<Result<Vec<_>>>()?.concat()
    {
        let text = without_tests(&text);
        let lines = text.lines().count();
        ensure!(lines <= FILE, "{name} has {lines} lines");
        for (first, length) in functions(text) {
            ensure!(length <= FUNCTION, "{name}:{first} has {length} lines");
        }
    }
    Ok(())
}

#[test]
fn files_are_named_for_a_noun() -> Result<()> {
    for (name, _) in sources("src")?.into_iter().chain(sources("nri/src")?) {
        for vague in ["utils", "util", "common", "helpers", "types", "constants", "mod"] {
            ensure!(!name.ends_with(&format!("/{vague}.rs")), "{name}");
        }
    }
    Ok(())
}

#[test]
fn scripts_can_be_run_by_their_names() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let scripts = fs::read_dir(tests)?.map(|entry| Ok(entry?.path()));
    let scripts: Vec<_> = scripts.collect::<Result<_>>()?;
    let scripts = || scripts.iter().filter(|path| path.extension().is_some_and(|end| end == "sh"));
    ensure!(scripts().count() > 5, "no scripts");
    for path in scripts() {
        let mode = fs::metadata(path)?.permissions().mode();
        ensure!(mode & 0o111 == 0o111, "{} is not executable", path.display());
    }
    Ok(())
}
