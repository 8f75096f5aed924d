//! seccomp rules that every sandboxed program of ours has alike, and how they are entered.
//!
//! Rule: what a call may do is narrowed by its arguments where the number alone lets more through than is needed. The rules
//! hold for this process: its id is in them.

use std::collections::BTreeMap;

use seccompiler::BackendError;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;
use seccompiler::TargetArch;

use crate::Error;

/// Flags with which clone() makes a thread of this process.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
/// PR_SET_VMA: the name of a piece of memory.
const NAME_MEMORY: u64 = 0x5356_4d41;
/// A socket's type without its flags.
const SOCKET_TYPE: u64 = 0xf;
/// F_SETOWN, F_SETSIG, F_SETOWN_EX: a descriptor that sends signals to another process.
const OWNER_COMMANDS: [u64; 3] = [8, 10, 15];
/// What open() changes anything with.
const WRITES: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64;

/// What meets a system call that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ENOSYS, as on a kernel without the call, so that libraries fall back instead of dying.
    Absent,
    /// SIGSYS, so that a call that was not thought of is seen: [`crate::fatal`] tells which.
    Trap,
}

/// System calls and the arguments with which they are allowed; no rule means any.
#[derive(Debug, Default)]
pub struct Filter {
    rules: BTreeMap<i64, Vec<SeccompRule>>,
}

impl Filter {
    /// The calls of `any` with any arguments, and narrowed: threads but no processes, their names, signals to threads of this
    /// process, descriptors without an owner to signal, pairs of stream sockets, limits that are asked for.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn new(any: impl IntoIterator<Item = i64>) -> Result<Self, Error> {
        let mut filter = Self {
            rules: any.into_iter().map(|call| (call, Vec::new())).collect(),
        };
        let pid = u64::from(std::process::id());
        filter.masked(libc::SYS_clone, 0, THREAD, THREAD)?;
        filter.only(libc::SYS_tgkill, 0, [pid])?;
        let name = libc::PR_SET_NAME as u64;
        filter.only(libc::SYS_prctl, 0, [name, NAME_MEMORY])?;
        filter.masked(
            libc::SYS_socketpair,
            1,
            SOCKET_TYPE,
            libc::SOCK_STREAM as u64,
        )?;
        let conditions = OWNER_COMMANDS.map(|command| condition(1, SeccompCmpOp::Ne, command));
        let conditions: Result<Vec<_>, _> = conditions.into_iter().collect();
        filter.push(libc::SYS_fcntl, conditions?)?;
        // Bits 63 to 0: the pointer to a new limit is null.
        let ask = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        filter.push(libc::SYS_prlimit64, vec![ask])?;
        Ok(filter)
    }

    /// Allows `call` when its argument `argument` (from 0) is one of `values`, in its lower 32 bits.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn only(
        &mut self,
        call: i64,
        argument: u8,
        values: impl IntoIterator<Item = u64>,
    ) -> Result<(), Error> {
        for value in values {
            self.push(call, vec![condition(argument, SeccompCmpOp::Eq, value)?])?;
        }
        Ok(())
    }

    /// Allows `call` when of its argument the bits `mask` are `value`.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn masked(&mut self, call: i64, argument: u8, mask: u64, value: u64) -> Result<(), Error> {
        let condition = condition(argument, SeccompCmpOp::MaskedEq(mask), value)?;
        self.push(call, vec![condition])
    }

    /// Allows files to be opened for reading; a file system sandbox says which.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn open_for_reading(&mut self) -> Result<(), Error> {
        self.masked(libc::SYS_openat, 2, WRITES, 0)
    }

    /// Allows Unix sockets to be made and connected to any path. No argument that a filter sees says which.
    ///
    /// # Errors
    /// A rule is malformed.
    pub fn connect(&mut self) -> Result<(), Error> {
        self.rules.insert(libc::SYS_connect, Vec::new());
        self.only(libc::SYS_socket, 0, [libc::AF_UNIX as u64])
    }

    /// Allows `call` with any arguments.
    pub fn any(&mut self, call: i64) {
        self.rules.insert(call, Vec::new());
    }

    /// Confines this thread and all that it starts; what is not allowed is met by `refusal`.
    ///
    /// # Errors
    /// The kernel has no seccomp, or refuses.
    pub fn enter(self, refusal: Refusal) -> Result<(), Error> {
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let otherwise = match refusal {
            Refusal::Absent => absent.clone(),
            Refusal::Trap => SeccompAction::Trap,
        };
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let mut rules = self.rules;
        // Allowed here and answered below, by the stricter of two filters.
        rules.insert(libc::SYS_clone3, Vec::new());
        let allowed: BpfProgram =
            SeccompFilter::new(rules, otherwise, SeccompAction::Allow, arch)?.try_into()?;
        // Its flags are in memory, where no filter looks; without it the C library falls back to clone.
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let no_clone3: BpfProgram =
            SeccompFilter::new(clone3, SeccompAction::Allow, absent, arch)?.try_into()?;
        seccompiler::apply_filter(&no_clone3)?;
        crate::panics::confined();
        Ok(seccompiler::apply_filter(&allowed)?)
    }

    fn push(&mut self, call: i64, conditions: Vec<SeccompCondition>) -> Result<(), Error> {
        let rule = SeccompRule::new(conditions)?;
        self.rules.entry(call).or_default().push(rule);
        Ok(())
    }
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
}
