//! The hook alone: runc and crun run it for a bundle.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::bundle::{Bundle, everywhere};
use crate::gpu;

/// What a container shows when its cache knows the driver.
fn script() -> String {
    format!("{} && ldconfig -p | grep -c -e libcuda.so.1 -e libnvidia-ml.so.1", gpu::APP)
}

fn folder() -> String {
    format!("--folder={}", gpu::directory())
}

/// Runs a container with the hook, whose root `prepare` has changed before.
fn works(prepare: fn(&Bundle<'_>) -> Result<()>) -> Result<()> {
    everywhere(|host, runtime| {
        let mut bundle = Bundle::new(host)?.hook(&[&folder()]);
        prepare(&bundle)?;
        let ran = bundle.run(runtime, &script())?;
        ensure!(ran.code == Some(0) && ran.stdout == format!("{}2\n", gpu::GREETING), "{ran:?}");
        Ok(())
    })
}

#[test]
fn a_program_finds_the_driver_with_the_hook_and_not_without() -> Result<()> {
    everywhere(|host, runtime| {
        let without = Bundle::new(host)?.run(runtime, &script())?;
        ensure!(without.code != Some(0) && without.stderr.contains("libcuda.so.1"), "{without:?}");
        Ok(())
    })?;
    works(|_| Ok(()))
}

#[test]
fn a_read_only_root_is_refreshed() -> Result<()> {
    everywhere(|host, runtime| {
        let mut bundle = Bundle::new(host)?.hook(&[&folder()]).read_only();
        let ran = bundle.run(runtime, &format!("touch /x 2>/dev/null || {{ {}; }}", script()))?;
        ensure!(ran.code == Some(0) && ran.stdout.starts_with(gpu::GREETING), "{ran:?}");
        Ok(())
    })
}

#[test]
fn a_root_without_ld_so_conf_gets_one() -> Result<()> {
    works(|bundle| Ok(fs::remove_file(bundle.root("/etc/ld.so.conf"))?))
}

#[test]
fn a_root_without_ld_so_conf_d_gets_one() -> Result<()> {
    works(|bundle| Ok(fs::remove_dir_all(bundle.root("/etc/ld.so.conf.d"))?))
}

#[test]
fn a_root_without_a_cache_gets_one() -> Result<()> {
    works(|bundle| Ok(fs::remove_file(bundle.root("/etc/ld.so.cache"))?))
}

#[test]
fn a_configuration_that_does_not_include_ours_is_served_all_the_same() -> Result<()> {
    everywhere(|host, runtime| {
        let volume = format!("{}/lib64", gpu::VOLUME);
        let bundle = Bundle::new(host)?.volume(&volume, "/driver", "ro");
        let mut bundle = bundle.hook(&["--folder=/driver"]);
        fs::write(bundle.root("/etc/ld.so.conf"), "/opt/own\n")?;
        let script = "ldconfig -p | grep -c -e /driver/libcuda.so.1 -e libc.so.6";
        let ran = bundle.run(runtime, script)?;
        ensure!(ran.stdout == "2\n", "{ran:?}");
        Ok(())
    })
}

/// What such a configuration says is not known before our files are there; the container's own ldconfig is the judge.
#[test]
fn our_files_by_other_names_are_read_as_ldconfig_reads_them() -> Result<()> {
    const LAST: &str = "zz-nvcr-ldcache.conf";
    let prepared: [fn(&Path) -> Result<()>; 3] = [
        |etc| {
            symlink("ld.so.conf.d", etc.join("alias"))?;
            let conf = "include alias/zz*.conf\ninclude /etc/ld.so.conf.d/*.conf\n";
            Ok(fs::write(etc.join("ld.so.conf"), conf)?)
        },
        |etc| Ok(symlink(LAST, etc.join("ld.so.conf.d/00-a.conf"))?),
        |etc| {
            let dir = etc.join("ld.so.conf.d");
            fs::write(dir.join("a.conf"), "/opt/own\n")?;
            Ok(fs::hard_link(dir.join("a.conf"), dir.join(LAST))?)
        },
    ];
    everywhere(|host, runtime| {
        for (number, prepare) in prepared.iter().enumerate() {
            let volume = format!("{}/lib64", gpu::VOLUME);
            let bundle = Bundle::new(host)?.volume(&volume, "/driver", "ro");
            let mut bundle = bundle.hook(&["--folder=/driver"]);
            prepare(&bundle.root("/etc"))?;
            let sum = "md5sum </etc/ld.so.cache";
            let script = format!("{sum}; ldconfig; {sum}; ldconfig -p | grep -c /driver/libcuda");
            let ran = bundle.run(runtime, &script)?;
            let lines: Vec<_> = ran.stdout.lines().collect();
            let is_same = matches!(lines[..], [ours, theirs, "1"] if ours == theirs);
            ensure!(is_same, "{number}: {ran:?}");
        }
        Ok(())
    })
}

/// Runtimes limit themselves before they run hooks, and so limit them.
#[test]
fn a_container_of_few_descriptors_is_refreshed() -> Result<()> {
    everywhere(|host, runtime| {
        let volume = format!("{}/lib64", gpu::VOLUME);
        let bundle = Bundle::new(host)?.volume(&volume, "/driver", "ro").descriptors(24);
        let mut bundle = bundle.hook(&["--folder=/driver", "--engine=native"]);
        let ran =
            bundle.run(runtime, "ldconfig -p | grep -c -e /driver/libcuda.so.1 -e libc.so.6")?;
        ensure!(ran.stdout == "2\n", "{ran:?}");
        Ok(())
    })
}

/// ldconfig skips over all of this, and so must we.
#[test]
fn harmless_oddities_of_a_configuration_are_no_failure() -> Result<()> {
    works(|bundle| {
        let dir = bundle.root("/etc/ld.so.conf.d");
        fs::create_dir(dir.join("directory.conf"))?;
        symlink("loop.conf", dir.join("loop.conf"))?;
        symlink("/nowhere", dir.join("dangling.conf"))?;
        symlink("/dev/null", dir.join("device.conf"))?;
        drop(UnixListener::bind(dir.join("socket.conf"))?);
        let text = "include ld.so.conf.d/**.conf\ninclude /etc/debian_version/x\n\tinclude\t/etc/ld.so.conf\n\
                    # comment\r\nhwcap 0 nosegneg\nrelative\n/\n/usr/lib/x86_64-linux-gnu/../lib\n";
        let long = "/".to_owned() + &"x".repeat(100_000);
        Ok(fs::write(
            bundle.root("/etc/ld.so.conf"),
            [text.as_bytes(), b"/\xff\n", long.as_bytes()].concat(),
        )?)
    })
}

/// A host that has only the library, not the link by which programs know it: on a read-only mount none can be made.
#[test]
fn a_directory_without_links_works_all_the_same() -> Result<()> {
    everywhere(|host, runtime| {
        let library = format!("{}/lib64/{}", gpu::VOLUME, gpu::file("libcuda"));
        host.node.run(&[
            "sh",
            "-c",
            &format!("mkdir -p /opt/bare && cp -n {library} /opt/bare"),
        ])?;
        for engine in ["--engine=incremental", "--engine=native"] {
            let bundle = Bundle::without_driver(host)?.volume("/opt/bare", "/driver", "ro");
            let mut bundle = bundle.hook(&["--folder=/driver", engine]);
            let ran = bundle.run(runtime, gpu::APP)?;
            ensure!(ran.stdout == gpu::GREETING, "{engine}: {ran:?}");
            ensure!(
                bundle.report()?["found"]["libcuda"]["is"] == "mounted",
                "{}",
                bundle.report()?
            );
        }
        Ok(())
    })
}

/// An image that has a driver's library itself, in a directory that its configuration wants to be searched before all others.
#[test]
fn a_library_that_another_one_hides_is_told() -> Result<()> {
    everywhere(|host, runtime| {
        let volume = format!("{}/lib64", gpu::VOLUME);
        let library = format!("{volume}/{}", gpu::file("libcuda"));
        for engine in ["--engine=incremental", "--engine=native", "--engine=ldconfig"] {
            let bundle = Bundle::without_driver(host)?.volume(&volume, "/driver", "ro");
            let mut bundle = bundle.hook(&["--folder=/driver", engine]);
            fs::create_dir(bundle.root("/compat"))?;
            fs::copy(host.node.path(&library), bundle.root("/compat/libcuda.so.1"))?;
            fs::write(bundle.root("/etc/ld.so.conf.d/00-cuda-compat.conf"), "/compat\n")?;
            let ran = bundle.run(runtime, gpu::APP)?;
            ensure!(ran.stdout == gpu::GREETING, "{engine}: {ran:?}");
            let found = &bundle.report()?["found"];
            ensure!(found["libcuda"]["is"] == "of-image", "{engine}: {found}");
            let hidden = json!([{ "path": "/driver/libcuda.so.1", "by": "/compat/libcuda.so.1" }]);
            ensure!(found["hidden"] == hidden, "{engine}: {found}");
        }
        Ok(())
    })
}

#[test]
fn mounted_libraries_that_nobody_tells_of_are_found() -> Result<()> {
    everywhere(|host, runtime| {
        let bundle = Bundle::without_driver(host)?.volume(gpu::VOLUME, "/somewhere/else", "ro");
        let mut bundle = bundle.hook(&["--discover"]);
        let ran = bundle.run(runtime, gpu::APP)?;
        ensure!(ran.stdout == gpu::GREETING, "{ran:?}");
        let added = &bundle.report()?["added"];
        ensure!(added[0] == "/somewhere/else/lib64", "{added}");
        Ok(())
    })
}

#[test]
fn a_musl_container_has_the_driver_in_its_path() -> Result<()> {
    everywhere(|host, runtime| {
        let volume = format!("{}/lib64", gpu::VOLUME);
        let bundle = Bundle::new(host)?.volume(&volume, "/driver", "ro");
        let mut bundle = bundle.hook(&["--folder=/driver"]);
        let arch = std::env::consts::ARCH;
        fs::write(bundle.root(&format!("/usr/lib/ld-musl-{arch}.so.1")), "")?;
        for _ in 0..2 {
            bundle.run(runtime, "true")?;
            let path = fs::read_to_string(bundle.root(&format!("/etc/ld-musl-{arch}.path")))?;
            ensure!(path == "/driver\n/lib\n/usr/local/lib\n/usr/lib\n", "{path:?}");
        }
        Ok(())
    })
}

#[test]
fn nothing_stays_but_configuration_links_and_cache_and_a_second_run_changes_nothing() -> Result<()>
{
    everywhere(|host, runtime| {
        let mut bundle = Bundle::new(host)?;
        bundle.run(runtime, "true")?;
        let before = bundle.changes()?;
        let mut bundle = bundle.hook(&[&folder(), "--folder=/opt/more"]);
        bundle.run(runtime, "true")?;
        let after = bundle.changes()?;
        let library = |name: &str| format!(".{}/{name}", gpu::directory());
        let mut added: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        // The upper layer has a copy of each directory in which something was changed.
        let lower = |line: &str| host.image(line.split(' ').next().unwrap_or_default()).is_dir();
        added.retain(|line| !line.contains(" d ") || !lower(line));
        let names: Vec<_> = added.iter().filter_map(|line| line.split(' ').next()).collect();
        let expected = [
            "./etc/ld.so.cache".to_owned(),
            "./etc/ld.so.conf.d/00-nvcr-ldcache.conf".to_owned(),
            "./etc/ld.so.conf.d/zz-nvcr-ldcache.conf".to_owned(),
            library("libcuda.so.1"),
            library("libnvidia-ml.so.1"),
            library("libnvidia-ptxjitcompiler.so.1"),
        ];
        ensure!(names == expected, "{names:?}");
        let modes: Vec<_> = added[..3].iter().filter_map(|line| line.split(' ').nth(2)).collect();
        ensure!(modes == ["644", "644", "644"], "{added:?}");
        // Somebody killed a run before.
        let whole = names[..3].iter().map(|name| bundle.root(&name[1..]));
        for file in whole {
            let name = file.file_name().context("a file has a name")?.display();
            fs::write(file.with_file_name(format!(".{name}.nri-ldcache")), "half")?;
        }
        bundle.run(runtime, "true")?;
        let again = bundle.changes()?;
        ensure!(again == after, "{again:#?}\n{after:#?}");
        // But that everybody can read what it says.
        let files: Vec<_> = names[..3].iter().map(|name| bundle.root(&name[1..])).collect();
        let private = fs::Permissions::from_mode(0o600);
        files.iter().try_for_each(|file| fs::set_permissions(file, private.clone()))?;
        bundle.run(runtime, "true")?;
        for file in files {
            let mode = fs::metadata(&file)?.permissions().mode() & 0o7777;
            ensure!(mode == 0o644, "{mode:o} {}", file.display());
        }
        Ok(())
    })
}

#[test]
fn the_drop_ins_have_what_is_new_and_the_containers_own_directories() -> Result<()> {
    everywhere(|host, runtime| {
        let mut bundle = Bundle::new(host)?.hook(&[&folder(), "--folder=/opt/b,/opt/a"]);
        fs::remove_file(bundle.root("/etc/debian_version"))
            .context("make it another distribution")?;
        bundle.run(runtime, "true")?;
        let read = |name: &str| fs::read_to_string(bundle.root("/etc/ld.so.conf.d").join(name));
        let first = read("00-nvcr-ldcache.conf")?;
        ensure!(first.ends_with("container\n/opt/b\n/opt/a\n"), "{first:?}");
        let last = read("zz-nvcr-ldcache.conf")?;
        ensure!(last.contains("/lib64\n/usr/lib64\n") && !last.contains("linux-gnu"), "{last:?}");
        Ok(())
    })
}

#[test]
fn a_hook_that_fails_stops_the_container_or_warns() -> Result<()> {
    everywhere(|host, runtime| {
        let args = ["--engine=ldconfig", "--ldconfig-path=/nowhere/ldconfig"];
        let failed = Bundle::new(host)?.hook(&args).run(runtime, "true")?;
        ensure!(failed.code != Some(0), "{failed:?}");
        let args = [args[0], args[1], "--on-failure=warn"];
        let warned = Bundle::new(host)?.hook(&args).run(runtime, "echo started")?;
        ensure!((warned.code, warned.stdout.as_str()) == (Some(0), "started\n"), "{warned:?}");
        Ok(())
    })
}
