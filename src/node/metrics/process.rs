//! What the system knows of this process: Linux's `/proc/self`.

use std::fs;

/// What the system knows of this process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// User and system time, in seconds.
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) threads: u64,
    pub(super) open_fds: u64,
    /// Nothing if there is no limit.
    pub(super) max_fds: Option<u64>,
    /// Seconds since 1970.
    pub(super) started_at: f64,
}

impl Process {
    /// Nothing where there is no `/proc`.
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in parentheses, may hold anything; what follows are numbers.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // The first one is field 3 of proc_pid_stat(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a clock's ticks and a page's bytes are small numbers"
        )]
        let ticks =
            |number: usize| Some(field(number)? as f64 / rustix::param::clock_ticks_per_second() as f64);
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: ticks(14)? + ticks(15)?,
            threads: field(20)?,
            started_at: boot + ticks(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(rustix::param::page_size() as u64),
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_started_in_the_past_and_uses_memory() {
        let process = Process::read().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.started_at > 1.5e9 && process.started_at < now + 2.0, "{process:?}");
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads >= 1 && process.open_fds >= 3);
    }
}
