//! Run time as the scheduler counts it, in ns: the first number of /proc/…/schedstat.

use std::fs;
use std::io;
use std::path::Path;

/// Of this thread.
pub fn own() -> u64 {
    of(Path::new("/proc/thread-self/schedstat"))
}

fn of(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// One line: `daemon=NS children=NS ksoftirqd=NS switches=N rss_kib=N peak_kib=N kworkers=PID-START:NS,…`. `daemon`,
/// `switches`, `rss_kib` and `peak_kib` (VmHWM) are of all threads of the processes and of their living descendants;
/// `children` is of descendants that ended and were waited for (in ticks of 10 ms); the kernel's threads are the whole
/// machine's, and its workers one by one, for they come and go.
pub fn run(pids: &[String]) -> io::Result<()> {
    let (mut ksoftirqd, mut kworkers) = (0, Vec::new());
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().into_string() else { continue };
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let (name, fields) = split(&stat);
        if name.starts_with("ksoftirqd/") {
            ksoftirqd += of(&entry.path().join("schedstat"));
        } else if name.starts_with("kworker/") {
            let born = fields.get(19).copied().unwrap_or_default();
            kworkers.push(format!("{pid}-{born}:{}", of(&entry.path().join("schedstat"))));
        }
        parents.push((pid, fields.get(1).copied().unwrap_or_default().to_owned()));
    }
    let mut family: Vec<String> = pids.to_vec();
    let mut at = 0;
    while at < family.len() {
        let children: Vec<String> =
            parents.iter().filter(|(_, parent)| *parent == family[at]).map(|(pid, _)| pid.clone()).collect();
        family.extend(children);
        at += 1;
    }
    let (mut daemon, mut children, mut switches, mut rss, mut peak) = (0, 0, 0, 0, 0);
    for pid in &family {
        let process = Path::new("/proc").join(pid);
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            daemon += of(&thread.path().join("schedstat"));
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            switches += field(&status, "voluntary_ctxt_switches") + field(&status, "nonvoluntary_ctxt_switches");
        }
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        rss += field(&status, "VmRSS");
        peak += field(&status, "VmHWM");
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        let ticks = |at: usize| split(&stat).1.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        children += (ticks(13) + ticks(14)) * 10_000_000; // cutime and cstime, USER_HZ 100
    }
    println!(
        "daemon={daemon} children={children} ksoftirqd={ksoftirqd} switches={switches} rss_kib={rss} peak_kib={peak} kworkers={}",
        kworkers.join(",")
    );
    Ok(())
}

/// The name in a `stat` line, and the fields after it: the state is the first.
fn split(stat: &str) -> (&str, Vec<&str>) {
    let (open, close) = (stat.find('(').map_or(0, |at| at + 1), stat.rfind(')').unwrap_or(0));
    (stat.get(open..close).unwrap_or_default(), stat.get(close + 1..).unwrap_or_default().split_whitespace().collect())
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
