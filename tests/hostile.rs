//! Hostile images: whatever is in the root, the host and the volumes stay as they were.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bundle::{Bundle, Host, VOLUME, everywhere};
use crate::shell;

/// Runs a container that an attacker has prepared, with a writable volume at `/vol`, and compares the host afterwards.
fn harmless(
    runtime: &str,
    host: &Host,
    engine: &str,
    attack: Attack,
    outcome: Outcome,
) -> Result<()> {
    let engine_flag = format!("--engine={engine}");
    let hook = ["--on-failure=warn", &engine_flag, "--folder=/usr/lib/evil"];
    let mut bundle = attack(Bundle::new(host)?.volume(VOLUME, "/vol", "rw").hook(&hook))?;
    let (tree, mounts) = (host.tree()?, bundle.host_mounts()?);
    let ran = bundle.run(runtime, "echo started")?;
    let (tree_after, mounts_after) = (host.tree()?, bundle.host_mounts()?);
    ensure!(tree == tree_after, "the host changed:\n{}", difference(&tree, &tree_after));
    ensure!(mounts == mounts_after, "mounts changed:\n{}", difference(&mounts, &mounts_after));
    ensure!((ran.code, ran.stdout.as_str()) == (Some(0), "started\n"), "{ran:?}");
    outcome(&bundle, engine)
}

fn difference(before: &str, after: &str) -> String {
    let gone = before.lines().filter(|line| !after.contains(line)).map(|line| format!("-{line}\n"));
    let new = after.lines().filter(|line| !before.contains(line)).map(|line| format!("+{line}\n"));
    gone.chain(new).collect()
}

/// Puts a library into the root whose SONAME is a path.
fn evil_library(bundle: &Bundle<'_>, soname: &str) -> Result<()> {
    let directory = bundle.root("/usr/lib/evil");
    fs::create_dir_all(&directory)?;
    let source = tempfile::Builder::new().suffix(".c").tempfile()?;
    fs::write(&source, "int evil;")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-o"]).arg(directory.join("libevil.so.1.0"));
    cc.arg(format!("-Wl,-soname,{soname}")).arg(source.path());
    shell::output(&mut cc).map(drop)
}

fn replace_by_link<'a>(bundle: Bundle<'a>, path: &str, target: &str) -> Result<Bundle<'a>> {
    let path = bundle.root(path);
    let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    removed.with_context(|| format!("remove {}", path.display()))?;
    symlink(target, path)?;
    Ok(bundle)
}

/// The hook came as far as the attack, and told of it: had it done nothing at all, the host would be as it was, too.
fn failed(bundle: &Bundle<'_>, named: &str) -> Result<()> {
    let report = bundle.report()?;
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(report["outcome"] == "failed" && reason.contains(named), "{report}");
    Ok(())
}

/// What an attacker does to a bundle, and what must be true of it afterwards beside the host being as it was.
type Attack = for<'a> fn(Bundle<'a>) -> Result<Bundle<'a>>;
type Outcome = fn(&Bundle<'_>, &str) -> Result<()>;

fn attacked(attack: Attack, outcome: Outcome) -> Result<()> {
    everywhere(|host, runtime| {
        let engines = ["incremental", "native", "ldconfig"].into_iter();
        engines
            .map(|engine| (engine, harmless(runtime, host, engine, attack, outcome)))
            .try_for_each(|(engine, result)| result.with_context(|| format!("engine {engine}")))
    })
}

#[test]
fn a_soname_that_leads_into_a_volume_makes_no_link_there() -> Result<()> {
    const EVIL: &str = "../../../vol/evil.so.1";
    attacked(
        |bundle| evil_library(&bundle, EVIL).map(|()| bundle),
        |bundle, engine| {
            let cache = fs::read(bundle.root("/etc/ld.so.cache"))?;
            let seen = cache.windows(EVIL.len()).any(|text| text == EVIL.as_bytes());
            ensure!(seen, "{engine} did not see the library");
            Ok(())
        },
    )
}

#[test]
fn etc_through_the_first_process_leads_nowhere() -> Result<()> {
    attacked(
        |bundle| replace_by_link(bundle, "/etc", "/proc/1/root/etc"),
        |bundle, _| failed(bundle, "/etc"),
    )
}

#[test]
fn etc_as_a_link_into_a_volume_is_not_written() -> Result<()> {
    attacked(|bundle| replace_by_link(bundle, "/etc", "/vol"), |bundle, _| failed(bundle, "/etc"))
}

#[test]
fn etc_on_a_volume_is_not_written() -> Result<()> {
    attacked(|bundle| Ok(bundle.volume(VOLUME, "/etc", "rw")), |bundle, _| failed(bundle, "/etc"))
}

#[test]
fn ld_so_conf_d_as_a_link_into_a_volume_is_not_written() -> Result<()> {
    attacked(
        |bundle| replace_by_link(bundle, "/etc/ld.so.conf.d", "/vol/ld.so.conf.d"),
        |bundle, _| {
            ensure!(bundle.root("/etc/ld.so.conf.d").is_symlink(), "the link was replaced");
            failed(bundle, "/etc/ld.so.conf.d")
        },
    )
}

#[test]
fn the_cache_as_a_link_into_a_volume_is_not_followed() -> Result<()> {
    attacked(
        |bundle| {
            symlink("/vol/ld.so.cache", bundle.root("/etc/ld.so.cache~"))?;
            replace_by_link(bundle, "/etc/ld.so.cache", "/vol/ld.so.cache")
        },
        |bundle, engine| match engine {
            "ldconfig" => failed(bundle, "/etc/ld.so.cache~"),
            _ => {
                let cache = bundle.root("/etc/ld.so.cache").symlink_metadata()?;
                ensure!(cache.is_file(), "the link was not replaced");
                Ok(())
            }
        },
    )
}

#[test]
fn the_images_own_ldconfig_is_not_executed() -> Result<()> {
    attacked(
        |bundle| {
            for name in ["/usr/sbin/ldconfig", "/usr/sbin/ldconfig.real"] {
                let path = bundle.root(name);
                fs::write(&path, "#!/bin/sh\ntouch /executed /vol/executed\n")?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            Ok(bundle)
        },
        |bundle, _| {
            ensure!(!bundle.root("/executed").exists(), "a program of the image was executed");
            let updated = bundle.root("/etc/ld.so.conf.d/zz-nvcr-ldcache.conf").exists();
            ensure!(updated, "nothing was updated");
            Ok(())
        },
    )
}

#[test]
fn the_containers_preload_is_not_loaded() -> Result<()> {
    attacked(preload, |bundle, _| {
        ensure!(bundle.root("/preloaded").exists(), "the library does not do what it is for");
        Ok(())
    })
}

/// A library that leaves a trace wherever it is loaded, in the container's environment and in the file that the dynamic
/// loader reads, and a hook without an environment, to which runc gives that of the container (CVE-2025-23266). The
/// container's own program loads it too: the trace in the container shows that it works.
fn preload(bundle: Bundle<'_>) -> Result<Bundle<'_>> {
    let source = tempfile::Builder::new().suffix(".c").tempfile()?;
    fs::write(
        &source,
        r#"
        #include <fcntl.h>
        __attribute__((constructor)) static void leave(void) {
            open("/preloaded", O_CREAT | O_WRONLY, 0600);
        }
        "#,
    )?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(bundle.root("/preload.so")).arg(source.path());
    shell::output(&mut cc)?;
    fs::write(bundle.root("/etc/ld.so.preload"), "/preload.so\n")?;
    Ok(bundle.env("LD_PRELOAD=/proc/self/cwd/preload.so").without_hook_env())
}

#[test]
fn a_fifo_ends_in_time_and_is_named() -> Result<()> {
    everywhere(|host, runtime| {
        for path in ["/etc/ld.so.conf", "/etc/ld.so.conf.d/fifo.conf"] {
            let mut bundle = Bundle::new(host)?.hook(&["--folder=/usr/lib/evil"]);
            if bundle.root(path).exists() {
                fs::remove_file(bundle.root(path))?;
            }
            shell::output(Command::new("mkfifo").arg(bundle.root(path)))?;
            let ran = bundle.run(runtime, "echo started")?;
            ensure!(ran.code != Some(0), "{ran:?}");
            // crun does not show what its hooks say.
            let named = format!("read {path}: not a regular file");
            ensure!(runtime == "crun" || ran.stderr.contains(&named), "{ran:?}");
            let zz = bundle.root("/etc/ld.so.conf.d/zz-nvcr-ldcache.conf");
            ensure!(!zz.exists(), "half an update was left");
        }
        Ok(())
    })
}
