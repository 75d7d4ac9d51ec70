//! [`Draft`]: a configuration as it will be once a plan is applied, of which nothing is there yet.

use anyhow::Result;

use super::lines::{Source, parts};

/// The files of a source, but for those that are to be written.
///
/// These are known by their own paths alone. Where something else leads to them, a link or another name of their directory, the
/// configuration is another one in the end.
#[derive(Debug)]
pub(super) struct Draft<'a, S> {
    pub(super) source: &'a S,
    /// Paths, and what they will say; one that says nothing will not be there.
    pub(super) files: Vec<(&'static str, Option<&'a str>)>,
}

impl<S: Source> Source for Draft<'_, S> {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.files.iter().find(|(ours, _)| parts(ours.as_bytes()).eq(parts(path))) {
            Some((_, text)) => Ok(text.map(|text| text.as_bytes().to_owned())),
            None => self.source.read(path),
        }
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut names = self.source.list(dir)?;
        for (path, text) in &self.files {
            let Some((our_dir, ours)) = path.rsplit_once('/') else { continue };
            if parts(our_dir.as_bytes()).eq(parts(dir)) {
                names.retain(|name| name != ours.as_bytes());
                names.extend(text.map(|_| ours.as_bytes().to_owned()));
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::ld_so_conf::{FIRST, LAST, Plan};
    use crate::root::Root;

    /// With these files below /etc an update finds beforehand what the linker is told after it.
    fn foresees(files: &[(&str, &str)], dirs: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        for (path, text) in files {
            let path = etc.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::at(dir.path()).unwrap();
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.parse().unwrap()).collect();
        let plan = Plan::make(&root, &dirs).unwrap();
        fs::create_dir_all(etc.join("ld.so.conf.d")).unwrap();
        for (path, text) in plan.files() {
            let path = dir.path().join(&path[1..]);
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
        assert_eq!(plan.dir_lines(), plan.dir_lines_of(&root).unwrap(), "{files:?}");
        let lines = plan.dir_lines().iter().cloned();
        lines.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn what_will_be_searched_is_known_before_it_is_written() {
        let [first, last] = [FIRST, LAST].map(|path| path.strip_prefix("/etc/").unwrap());
        let include = ("ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n/end\n");
        let a = ("ld.so.conf.d/a.conf", "/a\n");
        let new = foresees(&[include, a], &["/new"]);
        assert_eq!([&*new[0], &*new[1], &*new[2]], ["/new", "/a", "/lib"], "{new:?}");
        assert!(foresees(&[], &["/new"]).starts_with(&["/new".into(), "/lib".into()]));
        assert_eq!(foresees(&[("ld.so.conf", "/a\n"), a], &["/new"])[..2], ["/new", "/a"]);
        // What an earlier update left says something else, or will not be there.
        let before = [(first, "/old\n"), (last, "/older\n")];
        for dirs in [&["/new"][..], &[]] {
            for conf in [
                "include /etc/ld.so.conf.d/*.conf\n",
                "include ld.so.conf.d/zz* ld.so.conf.d//00-nvcr-ldcache.conf\n",
                "include /etc/*/*.conf\n",
            ] {
                let found = foresees(&[("ld.so.conf", conf), a, before[0], before[1]], dirs);
                assert!(!found.iter().any(|line| line.starts_with("/old")), "{found:?}");
            }
        }
        // One of the same name elsewhere stays what it is.
        for (conf, path) in [
            ("include /etc/*/*.conf\n", "other/00-nvcr-ldcache.conf"),
            ("include /etc/ld.so.conf.d/*.conf\n", "ld.so.conf.d/ld.so.conf"),
        ] {
            let found = foresees(&[("ld.so.conf", conf), (path, "/other\n"), a], &["/new"]);
            assert!(found.contains(&"/other".to_owned()), "{found:?}");
        }
    }
}
