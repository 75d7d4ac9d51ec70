//! Where may be written, below the root filesystem (landlock(7), Linux 5.13).

use anyhow::{Context, Result, ensure};
use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};

use crate::root::Root;

/// The newest version whose rights are asked for; older kernels enforce those that they have.
const VERSION: ABI = ABI::V5;

/// Allows to read everywhere, to write files in `/etc`, and to replace links in `dirs`. Nothing can be executed by path.
pub(super) fn restrict(root: &Root, dirs: &[String]) -> Result<()> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    let link = AccessFs::MakeSym | AccessFs::RemoveFile;
    let rules = Ruleset::default().handle_access(AccessFs::from_all(VERSION))?.create()?;
    let mut rules = rules.add_rule(PathBeneath::new(root, read))?;
    let mut allow = |path: &str, access: BitFlags<AccessFs>| -> Result<bool> {
        let Some(dir) = root.open_dir(path.as_ref())? else { return Ok(false) };
        (&mut rules).add_rule(PathBeneath::new(dir, access))?;
        Ok(true)
    };
    if !allow("/etc", write)? {
        // It will be made, and a rule can't name what is not there.
        allow("/", write)?;
    }
    for dir in dirs {
        // Reading is allowed everywhere, but the kernel goes up from each file that is opened to the first rule that says so.
        allow(dir, link | read)?;
    }
    // They are given up already, and there may be no system call for it anymore.
    let status = rules.no_new_privs(false).restrict_self().context("restrict")?;
    ensure!(status.ruleset != RulesetStatus::NotEnforced, "not in this kernel");
    Ok(())
}
