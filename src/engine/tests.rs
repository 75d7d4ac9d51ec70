use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;
use crate::elf;
use crate::ld_so_cache::{Hwcap, Merge};

/// A root with a cache of a directory that is kept, of libraries that are there by name alone, and one new library.
struct Image(tempfile::TempDir);

impl Image {
    fn new(names: &[&str], new: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for made in ["etc", "old", "new"] {
            fs::create_dir(dir.path().join(made)).unwrap();
        }
        fs::write(dir.path().join("new").join(new), elf::tests::library(new.as_bytes(), None))
            .unwrap();
        let paths: Vec<_> = names.iter().map(|name| format!("/old/{name}")).collect();
        let entries = names.iter().zip(&paths).map(|(name, path)| {
            let (name, path) = (name.as_bytes(), path.as_bytes());
            (Entry { name, path, flags: 0x303, hwcap: Hwcap::None }, 0)
        });
        let entries: Vec<_> = entries.collect();
        let plan = Merge::default().plan(&entries, &[], &Glibc::default().generator()).unwrap();
        let cache = plan.apply(Vec::new().into()).unwrap();
        fs::write(dir.path().join("etc/ld.so.cache"), &*cache).unwrap();
        Self(dir)
    }

    /// Changes words of the cache, by their places.
    fn damaged(self, words: &[(usize, u32)]) -> Self {
        let path = self.0.path().join("etc/ld.so.cache");
        let mut file = fs::read(&path).unwrap();
        words.iter().for_each(|(at, word)| file[*at..at + 4].copy_from_slice(&word.to_ne_bytes()));
        fs::write(path, file).unwrap();
        self
    }

    fn update(&self) -> Made {
        let root = Root::at(self.0.path()).unwrap();
        let lines = ["/new", "/old"].map(|dir| dir.as_bytes().to_vec());
        let dirs = Dirs { lines: &lines, added: &["/new"] };
        incremental(&root, dirs, &mut NoLinks, Instant::now() + Duration::from_secs(60)).unwrap()
    }
}

#[test]
fn what_is_new_joins_what_is_kept() {
    let made = Image::new(&["libc.so.1", "liba.so.1"], "libb.so.1").update();
    assert_eq!((made.fallback.as_deref(), made.entries, made.searched), (None, 3, 1));
    assert!(made.added().map(|entry| entry.path).eq([b"/new/libb.so.1"]));
    let cache = Cache::parse(&made.cache).unwrap();
    let names = cache.entries().map(|entry| entry.unwrap().name);
    assert!(names.eq([&b"libc.so.1"[..], b"libb.so.1", b"liba.so.1"]));
}

/// The libraries of these caches are not there, so that another cache is one of the full engine.
#[test]
fn a_base_in_which_the_new_would_not_be_found_is_none() {
    let disorder = ["liba.so.1", "libf.so.1", "libe.so.1", "libd.so.1", "libc.so.1"];
    for (names, new, reason) in [
        (&disorder[..], "libb.so.1", "\"libb.so.1\" would not be found in it"),
        (&["liba.so.1"], "libb.so.20240101123456", "has a number that overflows"),
        (&["liba.so.20240101123456"], "libb.so.1", "a name whose number overflows"),
        (&["libb.so.1", "liba.so.1", ""], "libc.so.1", "\"\" is no name of a file"),
    ] {
        let made = Image::new(names, new).update();
        let fallback = made.fallback.unwrap();
        assert!(fallback.contains(reason), "{fallback}");
        assert_eq!(made.entries, 1, "{names:?}");
    }
}

/// The header's size of the strings is what somebody wrote.
#[test]
fn names_outside_of_the_strings_are_looked_at() {
    let image = Image::new(&["liba.so.20240101123456"], "libb.so.1").damaged(&[(24, 0)]);
    let fallback = image.update().fallback.unwrap();
    assert!(fallback.contains("a name whose number overflows"), "{fallback}");
}

#[test]
fn strings_that_are_no_lines_are_no_failure() {
    let long = "x".repeat(9000);
    let image = Image::new(&[&long], "libb.so.1").damaged(&[(20, 0), (24, 9000)]);
    let made = image.update();
    assert_eq!((made.fallback, made.entries), (None, 1));
}

/// A directory that the cache knows, and into which a runtime puts files.
#[test]
fn what_a_cache_says_of_files_is_given_up_where_it_may_be_no_more() {
    type Change = fn(&std::path::Path, &dyn Fn(&str, &str));
    let contested: Change = |lib, put| {
        fs::write(lib.join("libx.so.1.2"), "").unwrap();
        put("libx.so.1.1", "libx.so.1");
    };
    let one_after_the_other: Change = |lib, put| {
        put("libx.so.1.1", "libx.so.1");
        put("libx.so.1.2", "liby.so.1");
        put("liby.so.1.2", "libz.so.1");
        fs::write(lib.join("libz.so.1.2"), "").unwrap();
    };
    let another_version: Change = |lib, put| {
        put("libd.so.2.0", "libd.so.2");
        fs::remove_file(lib.join("libd.so")).unwrap();
        symlink("libd.so.2.0", lib.join("libd.so")).unwrap();
    };
    let compatible: Change = |lib, _| {
        fs::remove_file(lib.join("libx.so.1.2")).unwrap();
        fs::remove_file(lib.join("libx.so.1")).unwrap();
        symlink("liby.so.1.2", lib.join("libx.so.1")).unwrap();
    };
    let no_link: Change = |lib, _| fs::remove_file(lib.join("libd.so.1")).unwrap();
    let changes = [contested, one_after_the_other, another_version, compatible, no_link];
    for (number, change) in changes.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let put = |file: &str, soname: &str| {
            fs::write(lib.join(file), elf::tests::library(soname.as_bytes(), None)).unwrap();
        };
        for name in ["libx", "liby", "libz", "libd"] {
            put(&format!("{name}.so.1.2"), &format!("{name}.so.1"));
            symlink(format!("{name}.so.1.2"), lib.join(format!("{name}.so.1"))).unwrap();
        }
        symlink("libd.so.1.2", lib.join("libd.so")).unwrap();
        let root = Root::at(dir.path()).unwrap();
        let dirs = Dirs { lines: &[b"/lib".to_vec()], added: &["/lib"] };
        let end = Instant::now() + Duration::from_secs(60);
        let before = full(&root, dirs, &mut NoLinks, end).unwrap();
        fs::write(dir.path().join("etc/ld.so.cache"), &*before.cache).unwrap();
        let same = incremental(&root, dirs, &mut NoLinks, end).unwrap();
        assert_eq!((&same.cache, same.fallback), (&before.cache, None));
        assert_eq!(same.opened, 0);
        change(&lib, &put);
        let made = incremental(&root, dirs, &mut NoLinks, end).unwrap();
        assert_eq!(made.cache, full(&root, dirs, &mut NoLinks, end).unwrap().cache, "{number}");
        assert!(made.fallback.is_none() && made.cache != before.cache, "{number}");
    }
}
