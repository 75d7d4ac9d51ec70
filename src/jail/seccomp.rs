//! Which system calls there are (seccomp(2)).
//!
//! Three lists: for our own engines, which execute nothing; for this program where it runs ldconfig; and for that. What is
//! not listed fails with ENOSYS, for which C libraries have a fallback; EPERM made ldconfig spin (libnvidia-container
//! issues 324 and 326).

use anyhow::{Context, Result};
use libc as c;
use seccompiler::{Error, apply_filter, sock_filter};

use super::Executes;
use super::filter::{Filter, Only};

/// What reading an image and writing its files needs.
const FILES: &[i64] = &[
    c::SYS_brk,
    c::SYS_clock_gettime,
    c::SYS_close,
    c::SYS_exit,
    c::SYS_exit_group,
    c::SYS_fchmod,
    c::SYS_fchmodat,
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
    c::SYS_unlinkat,
    c::SYS_write,
    c::SYS_writev,
];

/// What only this program needs for that: to look below the root, to tell a disk what will be read, and to give up more.
const OURS: &[i64] = &[
    c::SYS_fadvise64,
    c::SYS_landlock_add_rule,
    c::SYS_landlock_create_ruleset,
    c::SYS_landlock_restrict_self,
    c::SYS_openat2,
];

/// What ldconfig needs beside them, and a C library that starts.
const LDCONFIG: &[i64] = &[
    c::SYS_chdir,
    c::SYS_clock_nanosleep,
    c::SYS_dup,
    c::SYS_faccessat,
    c::SYS_fcntl,
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
    c::SYS_tgkill,
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

/// Code of the image can be mapped to be read, never to be run.
const DATA: Only = Only { argument: 2, mask: c::PROT_EXEC as u64, value: 0 };

/// Commands up to `F_SETLKW`; the next would have signals sent to any process (fcntl(2), `F_SETOWN`).
const PLAIN: Only = Only { argument: 1, mask: 0xffff_fff8, value: 0 };

/// Forks, as glibc does it.
const FORK: Only = Only {
    argument: 0,
    mask: u64::MAX,
    value: (c::CLONE_CHILD_SETTID | c::CLONE_CHILD_CLEARTID | c::SIGCHLD) as u64,
};

/// A program can be executed by descriptor, as the sealed ldconfig is, never by path.
const BY_DESCRIPTOR: Only = Only { argument: 4, mask: 0xffff_ffff, value: c::AT_EMPTY_PATH as u64 };

/// Longer than a filter may be (`BPF_MAXINSNS`, linux/bpf_common.h).
static TOO_LONG: [sock_filter; 4097] =
    [const { sock_filter { code: 0, jt: 0, jf: 0, k: 0 } }; 4097];

/// Are there filters? Where there are, one that is too long is wrong.
pub(super) fn is_there() -> bool {
    let refused = apply_filter(&TOO_LONG);
    matches!(refused, Err(Error::Seccomp(error)) if error.raw_os_error() == Some(c::EINVAL))
}

/// Limits this process to what the update needs.
pub(super) fn restrict(executes: Executes) -> Result<()> {
    let ours = files().allow(OURS);
    install(match executes {
        Executes::Nothing => ours.allow_only(c::SYS_fcntl, PLAIN),
        Executes::Ldconfig => ldconfig(ours).allow(PARENT).allow_only(c::SYS_clone, FORK),
    })
}

/// Limits this process further, to what ldconfig needs.
pub(crate) fn restrict_to_ldconfig() -> Result<()> {
    install(ldconfig(files()))
}

fn files() -> Filter {
    let files = Filter::default().allow(FILES).allow(OLD_FILES);
    files.allow_only(c::SYS_mmap, DATA).allow_only(c::SYS_mprotect, DATA)
}

fn ldconfig(filter: Filter) -> Filter {
    let filter = filter.allow(LDCONFIG).allow(OLD_LDCONFIG);
    filter.allow_only(c::SYS_execveat, BY_DESCRIPTOR)
}

fn install(filter: Filter) -> Result<()> {
    apply_filter(&filter.program()?).context("install filter")
}

#[cfg(test)]
mod tests {
    use std::io::stdin;
    use std::thread;

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, execv, fork, getpid};

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

    /// Where there is no namespace of our own, none of this may reach the host.
    #[test]
    fn nothing_is_asked_of_other_processes() {
        let asked = thread::spawn(|| {
            restrict(Executes::Nothing).unwrap();
            let this = getpid();
            // SAFETY: none of these touches memory; the process asked is this one, and the signal none.
            #[allow(unsafe_code)]
            let asked = unsafe {
                [
                    c::socket(c::AF_UNIX, c::SOCK_DGRAM, 0),
                    c::kill(this.as_raw(), 0),
                    c::syscall(c::SYS_tgkill, this.as_raw(), this.as_raw(), 0) as i32,
                    c::fcntl(0, c::F_SETOWN, this.as_raw()),
                    c::fcntl(0, c::F_SETLEASE, c::F_RDLCK),
                    c::shmget(c::IPC_PRIVATE, 1, 0),
                    c::sethostname([].as_ptr(), 0),
                    c::unshare(c::CLONE_NEWNS),
                    c::ptrace(c::PTRACE_TRACEME, 0, 0, 0) as i32,
                ]
            };
            (asked, Errno::last(), fcntl(stdin(), FcntlArg::F_GETFL).is_ok())
        });
        let (asked, last, gets_flags) = asked.join().unwrap();
        assert_eq!(asked, [-1; 9]);
        assert_eq!(last, Errno::ENOSYS);
        assert!(gets_flags && is_there());
    }

    #[test]
    fn nothing_is_forked_where_nothing_is_executed_and_no_path_ever() {
        let refused = Err(Errno::ENOSYS);
        assert_eq!(tried(Executes::Nothing), [refused, refused]);
        assert_eq!(tried(Executes::Ldconfig), [Ok(()), refused]);
    }
}
