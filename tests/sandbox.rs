//! The hook where a part of its sandbox can't be had.

use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_nri-ldcache");

/// What whoever starts the hook has forbidden it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    Seccomp,
    /// All but that for mounts.
    Namespaces,
}

impl Denied {
    fn rule(self) -> Result<(i64, Vec<SeccompRule>)> {
        let mounts = libc::CLONE_NEWNS as u64;
        let op = SeccompCmpOp::MaskedEq(mounts);
        let others = SeccompCondition::new(0, SeccompCmpArgLen::Qword, op, 0)?;
        Ok(match self {
            Self::Seccomp => (libc::SYS_seccomp, Vec::new()),
            Self::Namespaces => (libc::SYS_unshare, vec![SeccompRule::new(vec![others])?]),
        })
    }
}

/// Forbids this thread, and what it starts.
fn deny(denied: &[Denied]) -> Result<()> {
    let rules = denied.iter().map(|denied| denied.rule()).collect::<Result<_>>()?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    Ok(apply_filter(&BpfProgram::try_from(filter)?)?)
}

/// Refreshes an empty root. Returns what was refused, or else what was said.
fn refresh(
    denied: &'static [Denied],
    args: &'static [&str],
) -> Result<Result<Vec<String>, String>> {
    let dir = tempfile::tempdir()?;
    let (root, reports) = (dir.path().join("root"), dir.path().join("reports"));
    fs::create_dir_all(root.join("etc"))?;
    let state = format!(r#"{{"id":"c","bundle":"/","root":"{}"}}"#, root.display());
    fs::write(dir.path().join("state.json"), state)?;
    let mut hook = Command::new(BINARY);
    hook.args(["update-ldcache", "--folder=/driver"]).args(args);
    hook.arg("--container-spec").arg(dir.path().join("state.json"));
    hook.arg("--report-dir").arg(&reports);
    // A filter is of one thread.
    let ran = thread::spawn(move || -> Result<_> {
        deny(denied)?;
        Ok(hook.output()?)
    });
    let ran = ran.join().expect("the thread does not panic")?;
    if !ran.status.success() {
        return Ok(Err(String::from_utf8(ran.stderr)?));
    }
    ensure!(root.join("etc/ld.so.cache").is_file(), "no cache: {ran:?}");
    let report: Value = serde_json::from_str(&fs::read_to_string(reports.join("c.json"))?)?;
    let refused = report["refused"].as_array().context("a report tells what was refused")?;
    Ok(Ok(refused.iter().filter_map(|it| Some(it.as_str()?.to_owned())).collect()))
}

const NAMESPACES: [&str; 4] = [
    "pid namespace: refused",
    "ipc namespace: refused",
    "uts namespace: refused",
    "network namespace: refused",
];

#[test]
fn what_has_no_system_calls_for_them_needs_no_namespaces() -> Result<()> {
    for args in [&["--engine=native"][..], &["--engine=native", "--sandbox=strict"]] {
        for denied in [&[][..], &[Denied::Namespaces]] {
            let refused = refresh(denied, args)?;
            ensure!(refused == Ok(Vec::new()), "{denied:?} {args:?}: {refused:?}");
        }
    }
    let refused = refresh(&[Denied::Namespaces], &["--engine=ldconfig"])?;
    ensure!(refused == Ok(NAMESPACES.map(str::to_owned).into()), "{refused:?}");
    Ok(())
}

#[test]
fn where_there_are_no_filters_namespaces_stand_in() -> Result<()> {
    let filter = |it: &String| it.starts_with("seccomp: install filter: ");
    let refused = refresh(&[Denied::Seccomp], &["--engine=native"])?;
    ensure!(refused.as_ref().is_ok_and(|it| it.len() == 1 && filter(&it[0])), "{refused:?}");
    let refused = refresh(&[Denied::Seccomp, Denied::Namespaces], &["--engine=native"])?;
    let both = refused.as_ref().is_ok_and(|it| it[..4] == NAMESPACES && filter(&it[4]));
    ensure!(both, "{refused:?}");
    for (denied, missing) in [
        (&[Denied::Seccomp][..], "apply seccomp, as --sandbox=strict demands"),
        (
            &[Denied::Seccomp, Denied::Namespaces],
            "apply pid namespace, as --sandbox=strict demands",
        ),
    ] {
        let said = refresh(denied, &["--engine=native", "--sandbox=strict"])?;
        ensure!(said.as_ref().is_err_and(|said| said.contains(missing)), "{denied:?}: {said:?}");
    }
    Ok(())
}
