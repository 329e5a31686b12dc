//! How much shared memory this machine lets a server have. PostgreSQL maps all of it when it starts:
//! Linux refuses what it could never provide (`__vm_enough_memory`), or, if it is set never to refuse,
//! kills the server that begins to use it.

const KIB_A_MIB: u64 = 1024;

/// The most that one mapping can have and use, in MiB; `None` if the kernel does not say.
pub(super) fn limit() -> Option<u64> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    limit_of(
        &read("/proc/sys/vm/overcommit_memory"),
        &read("/proc/meminfo"),
    )
}

/// The same, from the texts of the kernel's files.
fn limit_of(overcommit: &str, memory: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib / KIB_A_MIB)
    };
    match overcommit.trim() {
        "2" => field("CommitLimit:"),
        _ => Some(field("MemTotal:")? + field("SwapTotal:").unwrap_or(0)),
    }
}

/// The size in what `postgres -C shared_memory_size` prints, in MiB.
pub(super) fn printed_size(output: &str) -> Option<u64> {
    output
        .lines()
        .rev()
        .find_map(|line| line.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_kernels() {
        let memory =
            "MemTotal:        8192 kB\nMemFree: 1 kB\nSwapTotal:  2048 kB\nCommitLimit:  6144 kB\n";
        for (overcommit, limit) in [
            ("0\n", Some(10)),
            ("1\n", Some(10)),
            ("2\n", Some(6)),
            ("", Some(10)),
        ] {
            assert_eq!(limit_of(overcommit, memory), limit, "{overcommit}");
        }
        assert_eq!(limit_of("0", ""), None);
    }

    #[test]
    fn the_size_is_the_last_number() {
        assert_eq!(printed_size("WARNING:  x\n146\n"), Some(146));
        assert_eq!(printed_size("no number\n"), None);
    }
}
