//! What a process holds, as the kernel counts it.

use std::path::PathBuf;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// The most that were, since its start or [`Vitals::forget_peak`].
    pub peak: u64,
    /// Open files and sockets.
    pub files: usize,
    /// Threads.
    pub threads: usize,
    /// Processor time so far, user's and kernel's, in ticks of 10 ms.
    pub ticks: u64,
    /// Bytes that it has read so far, from files and sockets.
    pub read: u64,
}

impl Vitals {
    /// Those of the process with this id.
    ///
    /// # Panics
    /// If there is none, or this is not Linux.
    pub fn of(pid: u32) -> Vitals {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let read = |name: &str| {
            let path = base.join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let (status, io) = (read("status"), read("io"));
        let field = |name: &str| {
            let line = status.lines().chain(io.lines()).find_map(|l| l.strip_prefix(name));
            let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("no {name} of {pid}"))
        };
        let stat = read("stat");
        // Behind the name, which may have anything in it but ends with the last bracket: user's time is the 12th, kernel's the 13th.
        let times = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let files = std::fs::read_dir(base.join("fd")).map_or(0, Iterator::count);
        Vitals {
            resident: field("VmRSS:") * 1024,
            peak: field("VmHWM:") * 1024,
            files,
            threads: field("Threads:") as usize,
            ticks: times.filter_map(|t| t.parse::<u64>().ok()).sum(),
            read: field("rchar:"),
        }
    }
    /// The peak of the process with this id is what it has now.
    ///
    /// # Panics
    /// If there is none, or this is not Linux.
    pub fn forget_peak(pid: u32) {
        let path = format!("/proc/{pid}/clear_refs");
        std::fs::write(&path, "5").unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}
