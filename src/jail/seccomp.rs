//! Which system calls there are (seccomp(2)).
//!
//! Three lists: for our own engines, which execute nothing; for this program where it runs ldconfig; and for that. What is
//! not listed fails with ENOSYS, for which C libraries have a fallback; EPERM made ldconfig spin (libnvidia-container
//! issues 324 and 326).

use std::env::consts::ARCH;

use anyhow::{Context, Result};
use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::Executes;

/// What reading an image and writing its files needs.
const FILES: &[i64] = &[
    c::SYS_brk,
    c::SYS_clock_gettime,
    c::SYS_close,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_fchmod,
    c::SYS_fchmodat,
    c::SYS_fcntl,
    c::SYS_fstat,
    c::SYS_futex,
    c::SYS_getdents64,
    c::SYS_getpid,
    c::SYS_getrandom,
    c::SYS_gettid,
    c::SYS_lseek,
    c::SYS_madvise,
    c::SYS_mkdirat,
    c::SYS_mremap,
    c::SYS_munmap,
    c::SYS_newfstatat,
    c::SYS_openat,
    c::SYS_pread64,
    c::SYS_read,
    c::SYS_readlinkat,
    c::SYS_renameat,
    c::SYS_restart_syscall,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_sigaltstack,
    c::SYS_statx,
    c::SYS_symlinkat,
    c::SYS_tgkill,
    c::SYS_unlinkat,
    c::SYS_write,
    c::SYS_writev,
];

/// What only this program needs for that: to look below the root, and to tell a disk what will be read.
const OURS: &[i64] = &[c::SYS_fadvise64, c::SYS_openat2];

/// What ldconfig needs beside them, and a C library that starts.
const LDCONFIG: &[i64] = &[
    c::SYS_chdir,
    c::SYS_clock_nanosleep,
    c::SYS_dup,
    c::SYS_faccessat,
    c::SYS_fdatasync,
    c::SYS_fstatfs,
    c::SYS_fsync,
    c::SYS_ftruncate,
    c::SYS_getcwd,
    c::SYS_getegid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_gettimeofday,
    c::SYS_getuid,
    c::SYS_prlimit64,
    c::SYS_readv,
    c::SYS_renameat2,
    c::SYS_rseq,
    c::SYS_sched_getaffinity,
    c::SYS_sched_yield,
    c::SYS_set_robust_list,
    c::SYS_set_tid_address,
    c::SYS_statfs,
    c::SYS_sysinfo,
    c::SYS_umask,
    c::SYS_uname,
];

/// Calls that newer architectures have dropped, and C libraries use where they are.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[i64] = &[c::SYS_lstat, c::SYS_open, c::SYS_readlink, c::SYS_stat];
#[cfg(target_arch = "x86_64")]
const OLD_LDCONFIG: &[i64] = &[
    c::SYS_access,
    c::SYS_arch_prctl,
    c::SYS_chmod,
    c::SYS_dup2,
    c::SYS_getdents,
    c::SYS_getrlimit,
    c::SYS_mkdir,
    c::SYS_poll,
    c::SYS_rename,
    c::SYS_rmdir,
    c::SYS_symlink,
    c::SYS_time,
    c::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_LDCONFIG: &[i64] = &[];

/// What only its parent needs: to watch one child, and to narrow its list.
const PARENT: &[i64] = &[
    c::SYS_dup3,
    c::SYS_kill,
    c::SYS_pidfd_open,
    c::SYS_pipe2,
    c::SYS_ppoll,
    c::SYS_prctl,
    c::SYS_seccomp,
    c::SYS_wait4,
    c::SYS_waitid,
];

/// Flags with which glibc forks.
const FORK: u64 = (c::CLONE_CHILD_SETTID | c::CLONE_CHILD_CLEARTID | c::SIGCHLD) as u64;

/// Limits this process to what the update needs.
pub(super) fn restrict(executes: Executes) -> Result<()> {
    match executes {
        Executes::Nothing => install(&[FILES, OLD_FILES, OURS], Vec::new()),
        Executes::Ldconfig => {
            let fork = when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, FORK)?;
            let lists = [FILES, OLD_FILES, OURS, LDCONFIG, OLD_LDCONFIG, PARENT];
            install(&lists, vec![(c::SYS_clone, fork), execute()?])
        }
    }
}

/// Limits this process further, to what ldconfig needs.
pub(crate) fn restrict_to_ldconfig() -> Result<()> {
    install(&[FILES, OLD_FILES, LDCONFIG, OLD_LDCONFIG], vec![execute()?])
}

/// A program can be executed by descriptor, as the sealed ldconfig is, never by path.
fn execute() -> Result<(i64, SeccompRule)> {
    let by_descriptor =
        when(4, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, c::AT_EMPTY_PATH as u64)?;
    Ok((c::SYS_execveat, by_descriptor))
}

fn install(lists: &[&[i64]], mut rules: Vec<(i64, SeccompRule)>) -> Result<()> {
    // Code of the image can be mapped to be read, never to be run.
    let data = || when(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(c::PROT_EXEC as u64), 0);
    rules.extend([(c::SYS_mmap, data()?), (c::SYS_mprotect, data()?)]);
    let always = lists.iter().copied().flatten().map(|call| (*call, Vec::new()));
    let sometimes = rules.into_iter().map(|(call, rule)| (call, vec![rule]));
    let refuse = SeccompAction::Errno(c::ENOSYS as u32);
    let arch = TargetArch::try_from(ARCH).context("no filter for this architecture")?;
    let filter =
        SeccompFilter::new(always.chain(sometimes).collect(), refuse, SeccompAction::Allow, arch)?;
    let program: BpfProgram = filter.try_into()?;
    apply_filter(&program).context("install filter")
}

fn when(
    argument: u8,
    length: SeccompCmpArgLen,
    op: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule> {
    Ok(SeccompRule::new(vec![SeccompCondition::new(argument, length, op, value)?])?)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::errno::Errno;
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, execv, fork};

    use super::*;

    /// What a thread may do that is restricted, for a filter holds for the thread that installs it: fork, and execute what is
    /// at a path.
    fn tried(executes: Executes) -> [Result<(), Errno>; 2] {
        let tried = thread::spawn(move || {
            restrict(executes).unwrap();
            let executed = execv(c"/nonexistent", &[c""]).map(drop);
            // SAFETY: the child calls nothing but _exit(2).
            #[allow(unsafe_code)]
            let forked = unsafe { fork() }.map(|forked| match forked {
                // SAFETY: as above.
                #[allow(unsafe_code)]
                ForkResult::Child => unsafe { c::_exit(0) },
                ForkResult::Parent { child } => drop(waitpid(child, None)),
            });
            [forked, executed]
        });
        tried.join().unwrap()
    }

    #[test]
    fn nothing_is_forked_where_nothing_is_executed_and_no_path_ever() {
        let refused = Err(Errno::ENOSYS);
        assert_eq!(tried(Executes::Nothing), [refused, refused]);
        assert_eq!(tried(Executes::Ldconfig), [Ok(()), refused]);
    }
}
