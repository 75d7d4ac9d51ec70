//! [`DropIn`]: NRI enabled in the configuration of a containerd that has it disabled by default, and disabled again.
//!
//! A file of our own has the setting, and the main file at most one path more in `imports`; the rest of it is not touched,
//! comments included. containerd is not restarted: that is for whoever knows what else runs on the node.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use toml::Spanned;

use super::PATIENCE;
use super::directory::{self, Directory};
use crate::root::Root;
use crate::runtime_config;

/// Where containerd's configuration is, unless it was told otherwise.
const MAIN: &str = "/etc/containerd/config.toml";

/// The directory of drop-ins beside it, and ours.
const DIR: &str = "conf.d";
const NAME: &str = "90-nri-ldcache.toml";

/// What matches it, and no other: containerd does not start without a file that is imported by its name.
const OURS: &str = "*-nri-ldcache.toml";

/// What containerd imports since 2.2 if nothing is said.
const ALL: &str = "*.toml";

/// What is put behind the main file's name for what it was before.
const BACKUP: &str = ".before-nri-ldcache";

/// What the main file is where there is none: all defaults.
const NONE: &str = "version = 2\n";

const LIMIT: u64 = 1 << 20;

/// A drop-in of one containerd.
#[derive(Debug)]
pub struct DropIn {
    main: PathBuf,
    host_root: PathBuf,
}

/// What is looked at in the main file.
#[derive(Deserialize)]
struct Main {
    version: Option<i64>,
    imports: Option<Spanned<Vec<String>>>,
}

impl DropIn {
    /// Where the main file is if nothing is said.
    pub const MAIN: &str = MAIN;

    /// The drop-in beside `main` of the host whose root is seen at `host_root`.
    pub fn new(main: &Path, host_root: &Path) -> Result<Self> {
        let name = main.display();
        ensure!(main.is_absolute() && main.to_str().is_some(), "{name} is not an absolute path");
        ensure!(main.file_name().is_some(), "{name} has no name");
        Ok(Self { main: main.to_owned(), host_root: host_root.to_owned() })
    }

    /// Enables NRI once containerd is restarted, and tells what was done.
    ///
    /// # Errors
    ///
    /// The configuration has a table for NRI already, which this one would replace as a whole, or it is of version 1.
    pub fn enable(&self) -> Result<Vec<String>> {
        let dir = self.dir()?;
        let nri = runtime_config::containerd(&Root::at(&self.host_root)?, &self.main, None)?;
        if nri.enabled == Some(true) {
            return Ok(vec!["NRI is enabled already, nothing written".to_owned()]);
        }
        if let Some(file) = &nri.said {
            let file = file.display();
            bail!("{file} says something of NRI: {} there", nri.remedy());
        }
        let name = self.main.display();
        let before = self.read(&dir, self.name())?;
        let text = before.as_deref().unwrap_or(NONE);
        let after = self.with_import(text).with_context(|| format!("{name}"))?;
        let drop_ins = Directory::make(&self.host_root, &self.drop_ins())?;
        let says = parse(text)?.imports.is_some();
        ensure!(
            says || only_ours(&drop_ins)?,
            "{name} has no imports, and {} has other files, which containerd imports since 2.2: say in {name} which imports it has",
            drop_ins.path().display()
        );
        let there = self.read(&drop_ins, NAME)?;
        ensure!(
            there.as_deref().is_none_or(is_ours),
            "{} is not ours: move it away",
            drop_ins.join(NAME).display()
        );
        replace(&drop_ins, NAME, &drop_in(text)?, None)?;
        let mut done = vec![format!("written {}", drop_ins.join(NAME).display())];
        if before.as_deref() != Some(&after) {
            let main = dir.file(self.name())?;
            if let Some(before) = &before {
                replace(&dir, &self.backup(), before, main.as_ref())?;
                done.push(format!("kept {}", dir.join(&self.backup()).display()));
            }
            replace(&dir, self.name(), &after, main.as_ref())?;
            done.push(format!("written {}", dir.join(self.name()).display()));
        }
        done.push("restart containerd for it to take effect".to_owned());
        Ok(done)
    }

    /// Takes back what [`DropIn::enable`] did, unless somebody has changed it since.
    pub fn undo(&self) -> Result<Vec<String>> {
        let (dir, mut done) = (self.dir()?, Vec::new());
        if let Some(drop_ins) = Directory::open(&self.host_root, &self.drop_ins())? {
            let path = drop_ins.join(NAME);
            match self.read(&drop_ins, NAME)? {
                Some(text) if is_ours(&text) => {
                    drop_ins.remove(NAME)?;
                    done.push(format!("removed {}", path.display()));
                    drop_ins.remove_itself()?;
                }
                Some(_) => bail!("{} was changed: remove it by hand", path.display()),
                None => {}
            }
        }
        let (backup, now) = (self.read(&dir, &self.backup())?, self.read(&dir, self.name())?);
        let shown = dir.join(self.name());
        match (backup, now) {
            // Of a run that was killed.
            (Some(before), Some(now)) if now == before => dir.remove(&self.backup())?,
            (Some(before), Some(now)) if now == self.with_import(&before)? => {
                dir.rename(&self.backup(), self.name())?;
                done.push(format!("put back {}", shown.display()));
            }
            (Some(_), _) => done.push(format!(
                "left {}: it was changed since; what it imports is gone, and {BACKUP} is beside it",
                shown.display()
            )),
            (None, Some(now)) if now == self.with_import(NONE)? => {
                dir.remove(self.name())?;
                done.push(format!("removed {}", shown.display()));
            }
            (None, _) => {}
        }
        Ok(done)
    }

    fn dir(&self) -> Result<Directory> {
        let above = self.main.parent().unwrap_or(Path::new("/"));
        let dir = Directory::open(&self.host_root, above)?;
        let dir = dir.with_context(|| format!("{} is not there", above.display()))?;
        dir.lock(PATIENCE)?;
        Ok(dir)
    }

    fn name(&self) -> &str {
        self.main.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn backup(&self) -> String {
        format!("{}{BACKUP}", self.name())
    }

    fn drop_ins(&self) -> PathBuf {
        self.main.with_file_name(DIR)
    }

    fn read(&self, dir: &Directory, name: &str) -> Result<Option<String>> {
        let Some(file) = dir.file(name)? else { return Ok(None) };
        let text = directory::read(file, LIMIT).and_then(|text| Ok(String::from_utf8(text)?));
        text.map(Some).with_context(|| format!("read {}", dir.join(name).display()))
    }

    /// The main file with one import more, if it needs one. Strings of JSON are strings of TOML.
    fn with_import(&self, text: &str) -> Result<String> {
        let here = self.drop_ins().display().to_string();
        let main = parse(text)?;
        let Some(imports) = main.imports else {
            return Ok(format!("imports = {}\n{text}", json!([format!("{here}/{ALL}")])));
        };
        let (span, mut list) = (imports.span(), imports.into_inner());
        let has = |dir: &str| [ALL, OURS].map(|pattern| format!("{dir}/{pattern}"));
        if list.iter().any(|import| has(&here).contains(import) || has(DIR).contains(import)) {
            return Ok(text.to_owned());
        }
        list.push(format!("{here}/{OURS}"));
        Ok(format!("{}{}{}", &text[..span.start], json!(list), &text[span.end..]))
    }
}

fn parse(text: &str) -> Result<Main> {
    // What is put before the first line would be put before it.
    ensure!(!text.starts_with('\u{feff}'), "it starts with a byte order mark: remove that");
    let main: Main = toml::from_str(text).map_err(|error| {
        anyhow::anyhow!("{}", error.message().trim().replace(char::is_control, " "))
    })?;
    let version = main.version.unwrap_or(1);
    ensure!(
        version >= 2,
        "version {version} of the configuration is too old, containerd config migrate makes it new"
    );
    Ok(main)
}

/// Of the same version as the main file, as containerd 1.7 wants it.
fn drop_in(main: &str) -> Result<String> {
    let version = parse(main)?.version.unwrap_or(2);
    Ok(format!(
        "# Written by nri-ldcache enable-nri, and removed by nri-ldcache enable-nri --undo.\nversion = {version}\n\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false\n"
    ))
}

fn is_ours(text: &str) -> bool {
    drop_in(text).is_ok_and(|ours| ours == text)
}

/// Does this directory have no drop-in but ours?
fn only_ours(drop_ins: &Directory) -> Result<bool> {
    Ok(drop_ins.names()?.iter().all(|name| name == NAME || !name.ends_with(".toml")))
}

/// Writes a file beside its place, and gives it its name. Whoever may read it are those who may read the one that it is
/// `like`, for there may be passwords of registries in it.
fn replace(dir: &Directory, name: &str, text: &str, like: Option<&File>) -> Result<()> {
    let temporary = format!(".{name}.nri-ldcache.tmp");
    if dir.file(&temporary)?.is_some() {
        // Of one that was killed: the lock is ours.
        dir.remove(&temporary)?;
    }
    let mut file = dir.create(&temporary)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| permit(&file, like))
        .and_then(|()| file.sync_all());
    let written = written.with_context(|| format!("write {}", dir.join(name).display()));
    let written = written.and_then(|()| dir.rename(&temporary, name));
    if written.is_err() {
        drop(dir.remove(&temporary));
    }
    written
}

fn permit(file: &File, like: Option<&File>) -> io::Result<()> {
    let mut mode = 0o644;
    if let Some(like) = like.map(File::metadata).transpose()? {
        std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()))?;
        mode = like.mode() & 0o7777;
    }
    file.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(main: Option<&str>) -> (tempfile::TempDir, DropIn) {
        let host = tempfile::tempdir().unwrap();
        fs::create_dir_all(host.path().join("etc/containerd")).unwrap();
        if let Some(main) = main {
            fs::write(host.path().join(&MAIN[1..]), main).unwrap();
        }
        let drop_in = DropIn::new(Path::new(MAIN), host.path()).unwrap();
        (host, drop_in)
    }

    #[test]
    fn the_rest_of_the_main_file_stays_as_it_is_and_comes_back() {
        for (before, after) in [
            (
                "version = 2 # two\n[x]\n",
                "imports = [\"/etc/containerd/conf.d/*.toml\"]\nversion = 2 # two\n[x]\n",
            ),
            (
                "imports = [] # none\nversion = 3",
                "imports = [\"/etc/containerd/conf.d/*-nri-ldcache.toml\"] # none\nversion = 3",
            ),
            (
                "version = 2\nimports = [ # mine\n'/a']\n",
                "version = 2\nimports = [\"/a\",\"/etc/containerd/conf.d/*-nri-ldcache.toml\"]\n",
            ),
            (
                "version = 2\nimports = ['conf.d/*.toml']",
                "version = 2\nimports = ['conf.d/*.toml']",
            ),
        ] {
            let (host, drop_in) = host(Some(before));
            let main = || fs::read_to_string(host.path().join(&MAIN[1..])).unwrap();
            for _ in 0..2 {
                drop_in.enable().unwrap();
                assert_eq!(main(), after);
                let root = Root::at(host.path()).unwrap();
                let nri = runtime_config::containerd(&root, Path::new(MAIN), Some((1, 7))).unwrap();
                assert_eq!(nri.enabled, Some(true), "{before}");
            }
            drop_in.undo().unwrap();
            assert_eq!(main(), before);
            assert_eq!(fs::read_dir(host.path().join("etc/containerd")).unwrap().count(), 1);
            assert!(drop_in.undo().unwrap().is_empty());
        }
    }

    #[test]
    fn who_may_read_the_main_file_may_read_what_takes_its_place_and_nobody_else() {
        let (host, drop_in) = host(Some("version = 2\n"));
        let path = |name: &str| host.path().join("etc/containerd").join(name);
        let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o7777;
        fs::set_permissions(path("config.toml"), Permissions::from_mode(0o600)).unwrap();
        drop_in.enable().unwrap();
        assert_eq!((mode("config.toml"), mode("config.toml.before-nri-ldcache")), (0o600, 0o600));
        assert_eq!(mode("conf.d/90-nri-ldcache.toml"), 0o644);
        drop_in.undo().unwrap();
        assert_eq!(mode("config.toml"), 0o600);
    }

    #[test]
    fn nothing_else_is_imported_that_was_not() {
        let other = "root = '/x'\n";
        let (host, drop_in) = host(Some("version = 2\n"));
        let path = |name: &str| host.path().join("etc/containerd").join(name);
        fs::create_dir(path("conf.d")).unwrap();
        fs::write(path("conf.d/other.toml"), other).unwrap();
        let error = drop_in.enable().unwrap_err().to_string();
        assert!(error.contains("say in /etc/containerd/config.toml which imports"), "{error}");
        assert_eq!(fs::read_dir(path("conf.d")).unwrap().count(), 1);
        fs::write(path("config.toml"), "version = 2\nimports = []\n").unwrap();
        drop_in.enable().unwrap();
        let root = Root::at(host.path()).unwrap();
        let nri = runtime_config::containerd(&root, Path::new(MAIN), None).unwrap();
        assert_eq!((nri.enabled, nri.files.len()), (Some(true), 2));
        drop_in.undo().unwrap();
        assert_eq!(fs::read_to_string(path("conf.d/other.toml")).unwrap(), other);
    }

    #[test]
    fn without_a_main_file_there_is_one_until_it_is_undone() {
        let (host, drop_in) = host(None);
        drop_in.enable().unwrap();
        assert!(host.path().join(&MAIN[1..]).exists());
        drop_in.undo().unwrap();
        assert_eq!(fs::read_dir(host.path().join("etc/containerd")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_run_left_is_taken_back_and_nothing_else() {
        let (host, drop_in) = host(Some("version = 2\n"));
        let dir = host.path().join("etc/containerd");
        fs::create_dir(dir.join(DIR)).unwrap();
        fs::write(dir.join(format!("config.toml{BACKUP}")), "version = 2\n").unwrap();
        assert!(drop_in.undo().unwrap().is_empty());
        let mut left: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [DIR, "config.toml"]);
    }

    #[test]
    fn what_somebody_has_said_of_nri_is_not_replaced() {
        for (main, expected) in [
            (
                "version = 2\n[plugins.'io.containerd.nri.v1.nri']\nsocket_path = '/s'",
                "says something of NRI",
            ),
            (
                "version = 2\ndisabled_plugins = ['io.containerd.nri.v1.nri']",
                "config.toml says something of NRI: take \"io.containerd.nri.v1.nri\" out of disabled_plugins there",
            ),
            ("\u{feff}version = 2", "starts with a byte order mark"),
            ("[x]", "version 1 of the configuration is too old"),
            ("version = ", "/etc/containerd/config.toml"),
        ] {
            let (host, drop_in) = host(Some(main));
            let error = format!("{:#}", drop_in.enable().unwrap_err());
            assert!(error.contains(expected), "{main}: {error}");
            assert_eq!(fs::read_dir(host.path().join("etc/containerd")).unwrap().count(), 1);
        }
        let (_host, drop_in) =
            host(Some("version = 2\n[plugins.'io.containerd.nri.v1.nri']\ndisable = false"));
        assert_eq!(drop_in.enable().unwrap(), ["NRI is enabled already, nothing written"]);
    }

    #[test]
    fn a_file_of_our_name_that_is_not_ours_stays() {
        let (host, drop_in) = host(Some("version = 2\nimports = []"));
        let dir = host.path().join("etc/containerd/conf.d");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(NAME), "# mine").unwrap();
        for error in [drop_in.enable().unwrap_err(), drop_in.undo().unwrap_err()] {
            assert!(error.to_string().contains(NAME), "{error}");
            assert_eq!(fs::read_to_string(dir.join(NAME)).unwrap(), "# mine");
        }
        assert_eq!(fs::read_dir(host.path().join("etc/containerd")).unwrap().count(), 2);
    }

    #[test]
    fn what_was_changed_since_is_left() {
        let (host, drop_in) = host(Some("version = 2\n"));
        drop_in.enable().unwrap();
        let main = host.path().join(&MAIN[1..]);
        let changed = fs::read_to_string(&main).unwrap() + "root = '/x'\n";
        fs::write(&main, &changed).unwrap();
        assert!(drop_in.undo().unwrap().iter().any(|line| line.starts_with("left ")));
        assert_eq!(fs::read_to_string(&main).unwrap(), changed);
        drop_in.enable().unwrap();
        fs::write(host.path().join("etc/containerd/conf.d").join(NAME), "version = 2\n").unwrap();
        assert!(drop_in.undo().unwrap_err().to_string().contains("was changed"));
    }
}
