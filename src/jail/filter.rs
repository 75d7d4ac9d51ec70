//! [`Filter`]: a seccomp filter that finds a system call by bisection.
//!
//! When a filter is installed, the kernel runs it once for every system call there is, to know which need none (Linux 5.11,
//! `seccomp_cache_prepare`). A chain of comparisons, as libraries make them, takes 0.15 ms for that, a tree a tenth.

use anyhow::{Context, Result, ensure};
use libc as c;
use seccompiler::{BpfProgram, sock_filter};

/// `struct seccomp_data` (seccomp(2)): the call's number, the architecture, an address, six arguments of eight bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_*` of linux/audit.h: the machine of ELF, 64 bits, little-endian.
const OWN_ARCHITECTURE: Option<u32> = match () {
    () if cfg!(target_arch = "x86_64") => Some(0xc000_0000 | c::EM_X86_64 as u32),
    () if cfg!(target_arch = "aarch64") => Some(0xc000_0000 | c::EM_AARCH64 as u32),
    () => None,
};

/// The system calls that there are; others are ENOSYS, and those of another architecture the end of the process.
#[derive(Debug, Default)]
pub(super) struct Filter(Vec<(u32, Option<Only>)>);

/// A call is there if the bits of `mask` of an argument are `value`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Only {
    pub(super) argument: u8,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// The first of a run of calls, and what is done with them.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Refuse,
    Allow,
    Ask(Only),
}

impl Filter {
    /// Allows these calls.
    pub(super) fn allow(mut self, calls: &[i64]) -> Self {
        self.0.extend(calls.iter().map(|call| (number(*call), None)));
        self
    }

    /// Allows a call with some of its arguments.
    pub(super) fn allow_only(mut self, call: i64, only: Only) -> Self {
        self.0.push((number(call), Some(only)));
        self
    }

    /// The program that the kernel runs.
    pub(super) fn program(self) -> Result<BpfProgram> {
        let architecture = OWN_ARCHITECTURE.context("no filter for this architecture")?;
        let mut program = Vec::with_capacity(256);
        program.extend([
            load(ARCHITECTURE),
            jump(c::BPF_JEQ, architecture, 1, 0),
            end(c::SECCOMP_RET_KILL_PROCESS),
            load(NUMBER),
        ]);
        branch(&self.runs()?, &mut program)?;
        Ok(program)
    }

    fn runs(mut self) -> Result<Vec<Run>> {
        self.0.sort_by_key(|(call, _)| *call);
        ensure!(self.0.windows(2).all(|two| two[0].0 != two[1].0), "a call is listed twice");
        let mut runs = Vec::with_capacity(256);
        runs.push(Run { first: 0, then: Then::Refuse });
        for (call, only) in self.0 {
            let then = only.map_or(Then::Allow, Then::Ask);
            // What begins here was refused until another call was listed.
            let last = runs.pop().filter(|last| last.first != call);
            runs.extend(last);
            if !matches!((runs.last(), then), (Some(Run { then: Then::Allow, .. }), Then::Allow)) {
                runs.push(Run { first: call, then });
            }
            runs.push(Run { first: call + 1, then: Then::Refuse });
        }
        Ok(runs)
    }
}

/// Writes what finds the run of a call among these.
fn branch(runs: &[Run], program: &mut BpfProgram) -> Result<()> {
    let (lower, upper) = runs.split_at(runs.len() / 2);
    match (lower, upper) {
        ([], upper) => upper.iter().for_each(|run| run.then.leaf(program)),
        (lower, upper) => {
            let at = program.len();
            program.extend(upper.first().map(|run| jump(c::BPF_JGE, run.first, 0, 0)));
            branch(lower, program)?;
            let over = u8::try_from(program.len() - at - 1).context("too many system calls")?;
            program.get_mut(at).into_iter().for_each(|jump| jump.jt = over);
            branch(upper, program)?;
        }
    }
    Ok(())
}

impl Then {
    fn leaf(self, program: &mut BpfProgram) {
        let (refuse, allow) = (c::SECCOMP_RET_ERRNO | c::ENOSYS as u32, c::SECCOMP_RET_ALLOW);
        let Only { argument, mask, value } = match self {
            Self::Refuse => return program.push(end(refuse)),
            Self::Allow => return program.push(end(allow)),
            Self::Ask(only) => only,
        };
        let at = ARGUMENTS + 8 * u32::from(argument);
        let [low, high] = [0, 32].map(|shift| ((mask >> shift) as u32, (value >> shift) as u32));
        program.extend([
            load(at),
            and(low.0),
            jump(c::BPF_JEQ, low.1, 0, 4),
            load(at + 4),
            and(high.0),
            jump(c::BPF_JEQ, high.1, 0, 1),
            end(allow),
            end(refuse),
        ]);
    }
}

fn number(call: i64) -> u32 {
    call as u32
}

fn load(offset: u32) -> sock_filter {
    instruction(c::BPF_LD | c::BPF_W | c::BPF_ABS, offset, 0, 0)
}

fn and(mask: u32) -> sock_filter {
    instruction(c::BPF_ALU | c::BPF_AND | c::BPF_K, mask, 0, 0)
}

fn jump(when: u32, value: u32, yes: u8, no: u8) -> sock_filter {
    instruction(c::BPF_JMP | when | c::BPF_K, value, yes, no)
}

fn end(action: u32) -> sock_filter {
    instruction(c::BPF_RET | c::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, as the kernel runs it (Linux, Documentation/networking/filter.rst).
    fn answer(program: &[sock_filter], architecture: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let mut words = vec![call, architecture, 0, 0];
        words.extend(arguments.iter().flat_map(|it| [*it as u32, (it >> 32) as u32]));
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let code = u32::from(code);
            let mut go = |yes| at += usize::from(if yes { jt } else { jf });
            match code & 7 {
                c::BPF_LD => value = words[k as usize / 4],
                c::BPF_ALU => value &= k,
                c::BPF_RET => return k,
                _ if code & 0xf0 == c::BPF_JEQ => go(value == k),
                _ => go(value >= k),
            }
        }
    }

    #[test]
    fn what_is_listed_is_there_and_nothing_else() {
        let only = Only { argument: 2, mask: 0xff_0000_00f0, value: 0x11_0000_0020 };
        let listed = [0, 1, 2, 9, 10, 30, 32, 33, 400, 450];
        let filter = Filter::default().allow(&listed).allow_only(11, only).allow_only(34, only);
        let program = filter.allow_only(31, only).program().unwrap();
        let own = OWN_ARCHITECTURE.unwrap();
        let refuse = c::SECCOMP_RET_ERRNO | c::ENOSYS as u32;
        for call in (0..600).chain([0x4000_0000, u32::MAX]) {
            for (argument, is_right) in [
                (0x11_0000_0020, true),
                (0xffff_ff11_ffff_ff2f, true),
                (0x11_0000_0030, false),
                (0x12_0000_0020, false),
                (0, false),
            ] {
                let asked = [11, 31, 34].contains(&call) && is_right;
                let expected = match asked || listed.contains(&i64::from(call)) {
                    true => c::SECCOMP_RET_ALLOW,
                    false => refuse,
                };
                let arguments = [0, 0, argument, 0, 0, 0];
                let found = answer(&program, own, call, arguments);
                assert_eq!(found, expected, "{call} {argument:#x}");
                let other = answer(&program, own ^ 1, call, arguments);
                assert_eq!(other, c::SECCOMP_RET_KILL_PROCESS);
            }
        }
        assert!(Filter::default().allow(&[3, 3]).program().is_err());
        // No jump goes farther than 255.
        let scattered: Vec<_> = (0..400).step_by(2).collect();
        assert!(Filter::default().allow(&scattered).program().is_err());
    }
}
