//! [`Draft`]: a configuration as it will be once a plan is applied, of which nothing is written yet.

use anyhow::Result;

use super::lines::{Source, parts};
use super::{CONF_DIR, ETC, Plan};
use crate::root::{Id, Root};

/// The files of a root, some of which are to be replaced.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    plan: &'a Plan,
    root: &'a Root,
    /// The directories of our files, as far as they are there. Links may give them other names.
    dirs: Vec<(&'static str, Id)>,
    /// Our files that are there from an earlier update, with what they will say. Links may lead to them.
    replaced: Vec<(Id, Option<&'a str>)>,
}

impl<'a> Draft<'a> {
    pub(super) fn of(plan: &'a Plan, root: &'a Root) -> Result<Self> {
        let mut draft = Self { plan, root, dirs: Vec::new(), replaced: Vec::new() };
        for dir in [ETC, CONF_DIR] {
            draft.dirs.extend(root.id(dir.as_bytes())?.map(|id| (dir, id)));
        }
        for (path, text) in plan.files() {
            draft.replaced.extend(root.id(path.as_bytes())?.map(|id| (id, text)));
        }
        Ok(draft)
    }

    /// What a file will say, if it is one of ours.
    fn drafted(&self, path: &[u8]) -> Result<Option<Option<&'a str>>> {
        let (dir, name) = split(path);
        for (ours, text) in self.plan.files() {
            let (our_dir, our_name) = split(ours.as_bytes());
            if name == our_name && self.is_same(dir, our_dir)? {
                return Ok(Some(text));
            }
        }
        if self.replaced.is_empty() {
            return Ok(None);
        }
        let id = self.root.id(path)?;
        Ok(self.replaced.iter().find(|(replaced, _)| Some(*replaced) == id).map(|(_, text)| *text))
    }

    /// Is a directory that one of ours?
    fn is_same(&self, dir: &[u8], ours: &[u8]) -> Result<bool> {
        if parts(dir).eq(parts(ours)) {
            return Ok(true);
        }
        let known = self.dirs.iter().find(|(name, _)| name.as_bytes() == ours);
        Ok(known.is_some() && self.root.id(dir)? == known.map(|(_, id)| *id))
    }
}

impl Source for Draft<'_> {
    fn read(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.drafted(path)? {
            Some(text) => Ok(text.map(|text| text.as_bytes().to_owned())),
            None => Source::read(self.root, path),
        }
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut names = Source::list(self.root, dir)?;
        let files = self.plan.files().map(|(path, text)| (path, text.is_some()));
        for (path, will_be) in files.chain([(CONF_DIR, true)]) {
            let (our_dir, ours) = split(path.as_bytes());
            if self.is_same(dir, our_dir)? {
                names.retain(|name| name != ours);
                names.extend(will_be.then(|| ours.to_owned()));
            }
        }
        Ok(names)
    }
}

/// The directory and the name of a file.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = path.rsplitn(2, |byte| *byte == b'/');
    let name = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::ld_so_conf::{FIRST, LAST, searched};

    /// Writes what a plan says, where it says it.
    fn apply(plan: &Plan, root: &Path) {
        fs::create_dir_all(root.join("etc/ld.so.conf.d")).unwrap();
        for (path, text) in plan.files() {
            let path = root.join(&path[1..]);
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    /// With these files below /etc, and links, an update finds beforehand what is searched after it.
    fn foresees(files: &[(&str, &str)], links: &[(&str, &str)], dirs: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        for (path, text) in files {
            let path = etc.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for (path, target) in links {
            symlink(target, etc.join(path)).unwrap();
        }
        let root = Root::at(dir.path()).unwrap();
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.parse().unwrap()).collect();
        let plan = Plan::make(&root, &dirs).unwrap();
        let before = plan.searched(&root).unwrap();
        apply(&plan, dir.path());
        let told = plan.left_out().iter().map(|dir| dir.as_bytes().to_vec());
        let after: Vec<_> = told.chain(searched(&root).unwrap()).collect();
        assert_eq!(before, after, "{files:?} {links:?}");
        before.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn what_will_be_searched_is_known_before_it_is_written() {
        let [first, last] = [FIRST, LAST].map(|path| path.strip_prefix("/etc/").unwrap());
        let include = ("ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n/end\n");
        let a = ("ld.so.conf.d/a.conf", "/a\n");
        let new = foresees(&[include, a], &[], &["/new"]);
        assert_eq!([&*new[0], &*new[1], &*new[2]], ["/new", "/a", "/lib"], "{new:?}");
        assert!(foresees(&[], &[], &["/new"]).starts_with(&["/new".into(), "/lib".into()]));
        foresees(&[("ld.so.conf", "/a\n"), a], &[], &["/new"]);
        // What an earlier update left says something else, or will not be there.
        let before = [(first, "/old\n"), (last, "/older\n")];
        for dirs in [&["/new"][..], &[]] {
            let found = foresees(&[include, a, before[0], before[1]], &[], dirs);
            assert!(!found.iter().any(|line| line.starts_with("/old")), "{found:?}");
            // Another name, by a link or a pattern.
            for (path, include) in [
                ("alias", "include alias/*.conf /etc/ld.so.conf.d/*.conf\n"),
                ("alias", "include /etc/alias/zz* alias/00-nvcr-ldcache.conf\n"),
                ("alias", "include /etc/*/*.conf\n"),
            ] {
                let links = [(path, "ld.so.conf.d")];
                foresees(&[("ld.so.conf", include), a], &links, dirs);
                foresees(&[("ld.so.conf", include), a, before[0], before[1]], &links, dirs);
            }
            for include in ["include /etc/./ld.so.conf.d/../ld.so.conf.d/*\n", "include link*\n"] {
                let links = [("link", FIRST), ("link2", "ld.so.conf.d/zz-nvcr-ldcache.conf")];
                foresees(&[("ld.so.conf", include), a, before[0], before[1]], &links, dirs);
            }
        }
        // One of the same name elsewhere stays what it is.
        let other = ("other/00-nvcr-ldcache.conf", "/other\n");
        let found = foresees(&[("ld.so.conf", "include /etc/*/*.conf\n"), other], &[], &["/new"]);
        assert!(found.contains(&"/other".to_owned()), "{found:?}");
    }
}
