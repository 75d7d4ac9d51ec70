//! Which system calls there are (seccomp(2)).
//!
//! Two lists: for our own code, which forks one child, and for that child, which becomes ldconfig. What is not listed fails
//! with ENOSYS, for which C libraries have a fallback; EPERM made ldconfig spin (libnvidia-container issues 324 and 326).

use std::env::consts::ARCH;

use anyhow::{Context, Result};
use libc as c;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// What reading an image and writing its files needs, ours and ldconfig's alike.
const FILES: &[i64] = &[
    c::SYS_brk,
    c::SYS_chdir,
    c::SYS_clock_gettime,
    c::SYS_clock_nanosleep,
    c::SYS_close,
    c::SYS_dup,
    c::SYS_dup3,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_faccessat,
    c::SYS_fchmod,
    c::SYS_fchmodat,
    c::SYS_fcntl,
    c::SYS_fdatasync,
    c::SYS_fstat,
    c::SYS_fstatfs,
    c::SYS_fsync,
    c::SYS_ftruncate,
    c::SYS_futex,
    c::SYS_getcwd,
    c::SYS_getdents64,
    c::SYS_getegid,
    c::SYS_geteuid,
    c::SYS_getgid,
    c::SYS_getpid,
    c::SYS_getrandom,
    c::SYS_gettid,
    c::SYS_gettimeofday,
    c::SYS_getuid,
    c::SYS_lseek,
    c::SYS_madvise,
    c::SYS_mkdirat,
    c::SYS_mremap,
    c::SYS_munmap,
    c::SYS_newfstatat,
    c::SYS_openat,
    c::SYS_pread64,
    c::SYS_prlimit64,
    c::SYS_read,
    c::SYS_readlinkat,
    c::SYS_readv,
    c::SYS_renameat,
    c::SYS_renameat2,
    c::SYS_restart_syscall,
    c::SYS_rseq,
    c::SYS_rt_sigaction,
    c::SYS_rt_sigprocmask,
    c::SYS_rt_sigreturn,
    c::SYS_sched_getaffinity,
    c::SYS_sched_yield,
    c::SYS_set_robust_list,
    c::SYS_set_tid_address,
    c::SYS_sigaltstack,
    c::SYS_statfs,
    c::SYS_statx,
    c::SYS_symlinkat,
    c::SYS_sysinfo,
    c::SYS_tgkill,
    c::SYS_umask,
    c::SYS_uname,
    c::SYS_unlinkat,
    c::SYS_write,
    c::SYS_writev,
];

/// Calls that newer architectures have dropped, and glibc uses where they are.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    c::SYS_access,
    c::SYS_arch_prctl,
    c::SYS_chmod,
    c::SYS_dup2,
    c::SYS_getdents,
    c::SYS_getrlimit,
    c::SYS_lstat,
    c::SYS_mkdir,
    c::SYS_open,
    c::SYS_poll,
    c::SYS_readlink,
    c::SYS_rename,
    c::SYS_rmdir,
    c::SYS_stat,
    c::SYS_symlink,
    c::SYS_time,
    c::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// What only we need: to look below the root, to watch one child, and to narrow its list.
const OURS: &[i64] = &[
    c::SYS_kill,
    c::SYS_openat2,
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
pub(super) fn restrict() -> Result<()> {
    let fork = when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, FORK)?;
    install(&[FILES, OLD, OURS], vec![(c::SYS_clone, fork)])
}

/// Limits this process further, to what ldconfig needs.
pub(crate) fn restrict_to_ldconfig() -> Result<()> {
    install(&[FILES, OLD], Vec::new())
}

fn install(lists: &[&[i64]], mut rules: Vec<(i64, SeccompRule)>) -> Result<()> {
    // Code of the image can be mapped to be read, never to be run.
    let data = || when(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(c::PROT_EXEC as u64), 0);
    // A program can be executed by descriptor, as the sealed ldconfig is, never by path.
    let by_descriptor =
        when(4, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, c::AT_EMPTY_PATH as u64)?;
    rules.extend([
        (c::SYS_mmap, data()?),
        (c::SYS_mprotect, data()?),
        (c::SYS_execveat, by_descriptor),
    ]);
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
