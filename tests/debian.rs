//! Debian root directories, made by debootstrap from the mirror that this machine itself uses.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Makes a minimal Debian `suite` with the packages of `include` in `target`.
pub(crate) fn debootstrap(suite: &str, include: &[&str], target: &Path) -> Result<()> {
    // A mount namespace, so that a killed debootstrap leaves no /proc mounted in a directory that is removed later.
    let mut command = Command::new("unshare");
    command.args(["--mount", "debootstrap", "--variant=minbase"]);
    if !include.is_empty() {
        command.arg(format!("--include={}", include.join(",")));
    }
    command.arg(suite).arg(target).arg(mirror()?).arg(script(suite));
    shell::output(&mut command)?;
    Ok(())
}

/// A debootstrap older than the suite has no script of its name; all suites since bookworm share sid's.
fn script(suite: &str) -> PathBuf {
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    let own = scripts.join(suite);
    if own.exists() { own } else { scripts.join("sid") }
}

/// The mirror of apt's own sources: the one that has this machine's release.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("NRI_LDCACHE_MIRROR") {
        return Ok(mirror);
    }
    let release = codename()?;
    // apt reads both of its source formats; it lists the targets even when nothing was downloaded yet.
    let targets = shell::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Created-By: Packages",
        "Component: main",
    ]))?;
    match pick(&targets, &release) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!(
            "apt's sources name no Debian mirror of {release}; set NRI_LDCACHE_MIRROR to the URI of one"
        ),
    }
}

fn codename() -> Result<String> {
    let os = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let field = |key: &str| {
        let value = os.lines().find_map(|line| line.strip_prefix(key))?;
        Some(value.trim_matches('"').to_owned())
    };
    field("VERSION_CODENAME=").context("no VERSION_CODENAME in /etc/os-release")
}

/// The first line `URI RELEASE` of this release, a URI that ends in Debian's own path before any other.
fn pick<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    let uris = || {
        let lines = targets.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(_, of)| *of == release).map(|(uri, _)| uri)
    };
    uris().find(|uri| uri.ends_with("/debian/")).or_else(|| uris().next())
}

#[test]
fn the_mirror_is_the_archive_of_this_release() {
    let targets = "http://other.test/apt/ bookworm\n\
                   http://mirror.test/debian-security/ bookworm-security\n\
                   http://mirror.test/debian/ bookworm\n";
    assert_eq!(pick(targets, "bookworm"), Some("http://mirror.test/debian/"));
    assert_eq!(pick("http://mirror.test/pub/ sid\n", "sid"), Some("http://mirror.test/pub/"));
    assert_eq!(pick(targets, "trixie"), None);
}
