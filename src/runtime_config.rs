//! [`Nri`]: what the configuration of a runtime says of NRI, in the files that the runtime reads, in their order.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

use crate::glob;
use crate::root::Root;

/// Most bytes of a file, and most files that one configuration may be made of.
const LIMIT: u64 = 1 << 20;
const FILES: usize = 100;
/// Most paths that a pattern is looked for in.
const MATCHES: usize = 1000;

/// containerd's name of its NRI service, since version 2 of its configuration and in version 1.
const PLUGIN: [&str; 2] = ["io.containerd.nri.v1.nri", "nri"];

/// What is imported where a configuration does not say (since containerd 2.2).
const IMPORTS: &str = "/etc/containerd/conf.d/*.toml";

/// What is set, and `None` where the default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nri {
    pub(crate) enabled: Option<bool>,
    /// The last file that says anything.
    pub(crate) said: Option<PathBuf>,
    /// Whether containerd is told in `disabled_plugins`, against which a table of the plugin says nothing.
    pub(crate) listed: bool,
    /// Whether plugins may connect, and not only be launched.
    pub(crate) connections: Option<bool>,
    pub(crate) socket: Option<PathBuf>,
    /// A validator that refuses containers that plugins add hooks to.
    pub(crate) rejects_hooks: bool,
    /// Plugins without which containers are refused.
    pub(crate) required: Vec<String>,
    /// The version of the configuration's schema.
    pub(crate) schema: Option<i64>,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
}

impl Nri {
    /// What enables it in a file of containerd.
    pub(crate) fn remedy(&self) -> &'static str {
        match self.listed {
            true => "take \"io.containerd.nri.v1.nri\" out of disabled_plugins",
            false => "set disable = false in [plugins.\"io.containerd.nri.v1.nri\"]",
        }
    }
}

/// Reads containerd's configuration with what it imports.
///
/// Of the table of one plugin, the last file that has one replaces all others (containerd issue 5837).
pub(crate) fn containerd(root: &Root, path: &Path, version: Option<(u32, u32)>) -> Result<Nri> {
    let mut nri = Nri::default();
    let Some(main) = read(root, path)? else { return Ok(nri) };
    nri.schema = main.get("version").and_then(Value::as_integer);
    let newer = version.map_or(nri.schema >= Some(3), |version| version >= (2, 2));
    let mut ahead = imports(root, path, &main);
    if main.get("imports").is_none() && newer {
        ahead.extend(matching(root, Path::new(IMPORTS)));
    }
    let (mut table, mut listed, mut said) = (None, None, None);
    let mut take = |path: &Path, file: &Table| {
        let plugins = file.get("plugins");
        if let Some(found) = PLUGIN.iter().find_map(|name| plugins?.get(name)) {
            (table, said) = (Some(found.clone()), Some(path.to_owned()));
        }
        let names = strings(file.get("disabled_plugins"));
        if names.iter().any(|name| PLUGIN.contains(&name.as_str())) {
            listed = Some(path.to_owned());
        }
    };
    take(path, &main);
    nri.files.push(path.to_owned());
    while let Some(path) = ahead.pop_front() {
        ensure!(nri.files.len() < FILES, "more than {FILES} files are imported");
        // A file that imports itself, or one that did, is read once.
        if nri.files.contains(&path) {
            continue;
        }
        if let Some(file) = read(root, &path)? {
            take(&path, &file);
            ahead.extend(imports(root, &path, &file));
            nri.files.push(path);
        }
    }
    if let Some(table) = table {
        of_containerd(&mut nri, &table);
    }
    if listed.is_some() {
        (nri.enabled, nri.listed) = (Some(false), true);
    }
    nri.said = listed.or(said);
    Ok(nri)
}

fn of_containerd(nri: &mut Nri, table: &Value) {
    let flag = |key| table.get(key).and_then(Value::as_bool);
    nri.enabled = flag("disable").map(|disabled| !disabled);
    nri.connections = flag("disable_connections").map(|disabled| !disabled);
    nri.socket = table.get("socket_path").and_then(Value::as_str).map(PathBuf::from);
    let Some(validator) = table.get("default_validator") else { return };
    let on = |key| validator.get(key).and_then(Value::as_bool) == Some(true);
    if on("enable") {
        nri.rejects_hooks = on("reject_oci_hook_adjustment");
        nri.required = strings(validator.get("required_plugins"));
    }
}

/// The files that a file imports, relative to its own directory.
fn imports(root: &Root, path: &Path, file: &Table) -> VecDeque<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let patterns = strings(file.get("imports"));
    patterns.iter().flat_map(|pattern| matching(root, &dir.join(pattern))).collect()
}

/// The paths that a pattern matches, as Go's `filepath.Glob` finds them; a path that is none stands for itself.
fn matching(root: &Root, pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components().map(|part| part.as_os_str()) {
        if !glob::is_pattern(part.as_bytes()) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let below = found.iter().flat_map(|dir| {
            let mut names = root.list(dir).unwrap_or_default();
            names.retain(|name| glob::matches(part.as_bytes(), name));
            names.into_iter().map(move |name| dir.join(OsStr::from_bytes(&name)))
        });
        found = below.take(MATCHES).collect();
    }
    found
}

/// Reads CRI-O's configuration: the file, and then all of its directory; each key has the value that it was given last.
pub(crate) fn crio(root: &Root, path: &Path, drop_ins: Option<&Path>) -> Result<Nri> {
    let mut nri = Nri::default();
    let names = drop_ins.map(|dir| root.list(dir)).transpose()?.unwrap_or_default();
    ensure!(
        names.len() < FILES,
        "more than {FILES} files in {}",
        drop_ins.unwrap_or(path).display()
    );
    let names = names.iter().map(|name| OsStr::from_bytes(name));
    let drop_ins = names.filter_map(|name| Some(drop_ins?.join(name)));
    let (mut validates, mut rejects) = (false, false);
    for path in std::iter::once(path.to_owned()).chain(drop_ins) {
        let Some(file) = read(root, &path)? else { continue };
        nri.files.push(path.clone());
        let Some(table) = file.get("crio").and_then(|crio| crio.get("nri")) else { continue };
        nri.said = Some(path);
        let flag = |key| table.get(key).and_then(Value::as_bool);
        nri.enabled = flag("enable_nri").or(nri.enabled);
        nri.connections = flag("nri_disable_connections").map(|no| !no).or(nri.connections);
        let socket = table.get("nri_listen").and_then(Value::as_str);
        nri.socket = socket.map(PathBuf::from).or(nri.socket);
        let Some(validator) = table.get("default_validator") else { continue };
        let flag = |key| validator.get(key).and_then(Value::as_bool);
        validates = flag("nri_enable_default_validator").unwrap_or(validates);
        rejects = flag("nri_validator_reject_oci_hook_adjustment").unwrap_or(rejects);
        if let Some(required) = validator.get("nri_validator_required_plugins") {
            nri.required = strings(Some(required));
        }
    }
    nri.rejects_hooks = validates && rejects;
    if !validates {
        nri.required.clear();
    }
    Ok(nri)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Reads a file of the host, if it is there.
fn read(root: &Root, path: &Path) -> Result<Option<Table>> {
    let Some(text) = root.read(path, LIMIT)? else { return Ok(None) };
    let name = path.display();
    let text = String::from_utf8(text).ok().with_context(|| format!("{name} is not UTF-8"))?;
    let table = text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        let message = error.message().trim().replace(char::is_control, " ");
        anyhow::anyhow!("{name}, line {line}: {message}")
    })?;
    Ok(Some(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MAIN: &str = "/etc/containerd/config.toml";

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let host = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = host.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::at(host.path()).unwrap();
        (host, root)
    }

    fn of_containerd(files: &[(&str, &str)], version: Option<(u32, u32)>) -> Result<Nri> {
        let (_host, root) = host(files);
        containerd(&root, Path::new(MAIN), version)
    }

    #[test]
    fn containerd_says_whether_nri_is_enabled_in_every_schema() {
        for (text, expected) in [
            ("", None),
            ("version = 3", None),
            ("[plugins.'io.containerd.nri.v1.nri']\nsocket_path = '/s'", None),
            ("version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = false", Some(true)),
            ("version = 3\n[plugins.'io.containerd.nri.v1.nri']\ndisable = true", Some(false)),
            ("[plugins.nri]\ndisable = false", Some(true)),
            ("disabled_plugins = ['io.containerd.nri.v1.nri']", Some(false)),
            ("disabled_plugins = ['other']\nversion = 2", None),
        ] {
            assert_eq!(of_containerd(&[(MAIN, text)], None).unwrap().enabled, expected, "{text}");
        }
        assert_eq!(of_containerd(&[], None).unwrap(), Nri::default());
    }

    #[test]
    fn patterns_may_be_anywhere_in_a_path() {
        let table = "[plugins.'io.containerd.nri.v1.nri']\ndisable = true";
        for (import, is_said) in [
            ("/etc/containerd/*.d/*.toml", true),
            ("*.d/[ab].toml", true),
            ("/*/containerd/x.d/a.toml", true),
            ("/etc/containerd/y*/*.toml", false),
            ("/etc/containerd/x.d/a.toml/*", false),
        ] {
            let main = format!("version = 2\nimports = ['{import}']");
            let files = [(MAIN, main.as_str()), ("/etc/containerd/x.d/a.toml", table)];
            let said = of_containerd(&files, None).unwrap().said;
            let expected = is_said.then_some(Path::new("/etc/containerd/x.d/a.toml"));
            assert_eq!(said.as_deref(), expected, "{import}");
        }
    }

    #[test]
    fn the_last_import_that_has_the_table_replaces_it() {
        let files = [
            (
                MAIN,
                "version = 2\nimports = ['conf.d/*.toml', '/x.toml', 'none.toml', 'config.toml']\n[plugins.'io.containerd.nri.v1.nri']\ndisable = false\nsocket_path = '/a'",
            ),
            (
                "/etc/containerd/conf.d/b.toml",
                "[plugins.'io.containerd.nri.v1.nri']\nsocket_path = '/b'",
            ),
            (
                "/etc/containerd/conf.d/c.conf",
                "[plugins.'io.containerd.nri.v1.nri']\nsocket_path = '/c'",
            ),
            ("/x.toml", "[plugins.other]\nx = 1"),
        ];
        let nri = of_containerd(&files, None).unwrap();
        assert_eq!((nri.enabled, nri.socket), (None, Some("/b".into())));
        assert_eq!(nri.files.len(), 3);
    }

    #[test]
    fn the_directory_for_drop_ins_is_read_by_containerds_that_do() {
        let drop_in = (
            "/etc/containerd/conf.d/n.toml",
            "[plugins.'io.containerd.nri.v1.nri']\ndisable = true",
        );
        let enabled =
            |main, version| of_containerd(&[(MAIN, main), drop_in], version).unwrap().enabled;
        assert_eq!(enabled("version = 3", Some((2, 2))), Some(false));
        assert_eq!(enabled("version = 3", Some((2, 1))), None);
        assert_eq!(enabled("version = 3", None), Some(false));
        assert_eq!(enabled("version = 2", None), None);
        assert_eq!(enabled("version = 3\nimports = []", Some((2, 2))), None);
    }

    #[test]
    fn a_validator_that_is_not_enabled_rejects_nothing() {
        let text = |enable: bool| {
            format!(
                "[plugins.'io.containerd.nri.v1.nri'.default_validator]\nenable = {enable}\nreject_oci_hook_adjustment = true\nrequired_plugins = ['a']"
            )
        };
        let nri = of_containerd(&[(MAIN, &text(true))], None).unwrap();
        assert_eq!((nri.rejects_hooks, nri.required), (true, vec!["a".to_owned()]));
        let nri = of_containerd(&[(MAIN, &text(false))], None).unwrap();
        assert_eq!((nri.rejects_hooks, nri.required.len()), (false, 0));
    }

    #[test]
    fn crio_takes_each_key_from_the_last_file() {
        let (_host, root) = host(&[
            ("/etc/crio/crio.conf", "[crio.nri]\nenable_nri = true\nnri_listen = '/a'"),
            (
                "/etc/crio/crio.conf.d/10-x",
                "[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_required_plugins = ['nri-ldcache']",
            ),
            (
                "/etc/crio/crio.conf.d/20-y",
                "[crio.nri]\nenable_nri = false\n[crio.nri.default_validator]\nnri_validator_reject_oci_hook_adjustment = true",
            ),
        ]);
        let (main, dir) = (Path::new("/etc/crio/crio.conf"), Path::new("/etc/crio/crio.conf.d"));
        let nri = crio(&root, main, Some(dir)).unwrap();
        assert_eq!((nri.enabled, nri.rejects_hooks), (Some(false), true));
        assert_eq!((nri.socket, nri.required.len()), (Some("/a".into()), 1));
        assert_eq!(crio(&root, main, None).unwrap().enabled, Some(true));
    }

    #[test]
    fn files_that_make_no_sense_are_named_with_their_line() {
        let error = |text: &str| format!("{:#}", of_containerd(&[(MAIN, text)], None).unwrap_err());
        assert!(error("a = 1\nb = ").starts_with("/etc/containerd/config.toml, line 2: "));
        assert!(error(&"#".repeat(2 << 20)).contains("larger than"));
    }
}
