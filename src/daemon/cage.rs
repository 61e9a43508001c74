//! The system calls that the watcher may make, once it watches: those of reading packets, deciding, writing its files and
//! starting nft, which inherits the list. Everything else is as if the kernel did not know it.
//!
//! Gathered with strace from the static build (musl) and the ordinary one (glibc), which differ, through a start, scans,
//! blocks, a reload, a flushed ruleset and an end; tests/cage.rs runs both with it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

/// Applies the list to all threads, and to all that they start, if this process is not root: root runs the commands of
/// the configuration by itself. Where the architecture is not known, the unit's own list remains.
///
/// # Errors
/// The kernel refuses.
pub fn enter() -> Result<()> {
    let Ok(arch) = std::env::consts::ARCH.try_into() else { return Ok(()) };
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = list(arch).context("cannot list system calls")?;
    apply_filter_all_threads(&program).context("cannot give up system calls (seccomp)")
}

/// The list as the kernel takes it.
fn list(arch: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed().map(|call| (call, Vec::new())).collect();
    // clone3 keeps its flags where no list can see them; without it C libraries take clone.
    let no_namespace = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?;
    rules.insert(number(libc::SYS_clone), vec![SeccompRule::new(vec![no_namespace])?]);
    // As of a kernel that is too old, which C libraries know how to handle.
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

/// The flags of clone by which a child gets namespaces of its own, and in that of users all rights.
#[allow(clippy::cast_sign_loss)] // each is one bit of an int
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

#[allow(clippy::useless_conversion)] // not everywhere is a long an i64
fn number(call: libc::c_long) -> i64 {
    i64::from(call)
}

fn allowed() -> impl Iterator<Item = i64> {
    const EVERYWHERE: &[libc::c_long] = &[
        // packets, sockets, waiting
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_listen,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_timerfd_create,
        libc::SYS_timerfd_settime,
        // files
        libc::SYS_close,
        libc::SYS_close_range,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_fcntl,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fstat,
        libc::SYS_fstatfs,
        libc::SYS_fsync,
        libc::SYS_ftruncate,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_ioctl,
        libc::SYS_lseek,
        libc::SYS_memfd_create,
        libc::SYS_mkdirat,
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_pipe2,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_readv,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_statx,
        libc::SYS_symlinkat,
        libc::SYS_umask,
        libc::SYS_unlinkat,
        libc::SYS_write,
        libc::SYS_writev,
        // memory, threads, time, signals
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_futex,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_gettimeofday,
        libc::SYS_getuid,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_prctl,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        libc::SYS_set_tid_address,
        libc::SYS_sigaltstack,
        libc::SYS_sysinfo,
        libc::SYS_tgkill,
        libc::SYS_uname,
        // nft
        libc::SYS_execve,
        libc::SYS_kill,
        libc::SYS_prlimit64,
        libc::SYS_setpgid,
        libc::SYS_wait4,
        libc::SYS_waitid,
    ];
    /// Older names of calls above.
    #[cfg(target_arch = "x86_64")]
    const ALSO: &[libc::c_long] = &[
        libc::SYS_access,
        libc::SYS_arch_prctl,
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_dup2,
        libc::SYS_fork,
        libc::SYS_lstat,
        libc::SYS_mkdir,
        libc::SYS_open,
        libc::SYS_pipe,
        libc::SYS_poll,
        libc::SYS_readlink,
        libc::SYS_rename,
        libc::SYS_select,
        libc::SYS_stat,
        libc::SYS_symlink,
        libc::SYS_time,
        libc::SYS_unlink,
        libc::SYS_vfork,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const ALSO: &[libc::c_long] = &[];
    EVERYWHERE.iter().chain(ALSO).map(|&call| number(call))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// perl calls clone by its number, below the list.
    #[test]
    fn a_child_is_no_way_into_other_namespaces() {
        let call = |flags: u64| {
            let arch = std::env::consts::ARCH.try_into().unwrap();
            let program = format!(
                "$r = syscall({}, {flags} | 17, 0, 0, 0, 0); exit 0 if $r == 0; print $r < 0 ? $! + 0 : 'child';",
                libc::SYS_clone
            );
            std::thread::spawn(move || {
                seccompiler::apply_filter(&list(arch).unwrap()).unwrap();
                let output = crate::host::Invocation::new("perl", &["-e", &program]).demand().unwrap();
                output.stdout
            })
            .join()
            .unwrap()
        };
        assert_eq!(call(0), "child");
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWNS] {
            assert_eq!(call(flag.unsigned_abs().into()), libc::ENOSYS.to_string());
        }
    }
}
