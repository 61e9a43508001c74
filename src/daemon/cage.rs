//! The system calls that the watcher may make, once it watches: those of reading packets, deciding, writing its files and
//! starting nft, which inherits the list. Everything else is as if the kernel did not know it.
//!
//! Gathered with strace from the static build (musl) and the ordinary one (glibc), which differ, through a start, scans,
//! blocks, a reload, a flushed ruleset and an end; tests/cage.rs runs both with it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};

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
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = allowed().map(|call| (call, Vec::new())).collect();
    // As of a kernel that is too old, which C libraries know how to handle.
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).context("cannot list system calls")?;
    let program: BpfProgram = filter.try_into().context("cannot list system calls")?;
    apply_filter_all_threads(&program).context("cannot give up system calls (seccomp)")
}

#[allow(clippy::useless_conversion)] // not everywhere is a long an i64
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
        libc::SYS_clone,
        libc::SYS_clone3,
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
    EVERYWHERE.iter().chain(ALSO).map(|&call| i64::from(call))
}
