//! What happens to the brokers: they are killed, stopped and started again while a pipeline runs.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::network::Network;
use super::{SCRIPT, assert_same, observe, scratch, written_bytes};
use crate::support::{Running, get, long, send_signal, until};

/// Brokers that are a test's own.
struct Brokers {
    dir: TempDir,
    servers: String,
}

impl Brokers {
    fn start(count: u32) -> Self {
        Self::start_with(count, "")
    }

    /// With settings of their own.
    fn start_with(count: u32, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut brokers = Self { dir, servers: String::new() };
        brokers.servers = brokers.script(&["start"], &[&count.to_string()], settings);
        brokers
    }

    fn script(&self, before: &[&str], after: &[&str], settings: &str) -> String {
        let output =
            Command::new(SCRIPT).args(before).arg(self.dir.path()).args(after).env("EXTRA", settings).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn signal(&self, number: u32, name: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join(format!("{number}/pid"))).unwrap();
        send_signal(pid.trim().parse().unwrap(), name);
    }

    fn run(&self, number: u32) {
        self.script(&["run"], &[&number.to_string()], "");
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        self.script(&["stop"], &[], "");
    }
}

/// Kills or stops one broker after the other while a worker runs, and starts each again a little later.
fn disturb(name: &str, count: u32, rounds: u32, rows: u64) {
    let undisturbed = scratch(name, None, rows);
    let expected = undisturbed.run();
    let brokers = Brokers::start(count);
    let scratch = scratch(name, Some(&brokers.servers), rows);
    let observer = observe(&scratch, &brokers.servers);
    let mut worker = Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
    let mut seen = 0;
    for round in 0..rounds {
        until("something more is written", || written_bytes(&scratch) > seen || !worker.is_running());
        let victim = round % count + 1;
        brokers.signal(victim, if round % 2 == 0 { "KILL" } else { "TERM" });
        std::thread::sleep(Duration::from_secs(3));
        seen = written_bytes(&scratch);
        brokers.run(victim);
    }
    worker.ended_well();
    assert_same(&scratch, observer, &undisturbed, &expected);
}

#[test]
fn a_broker_that_dies_in_the_middle_of_transactions_costs_nothing() {
    if long() { disturb("broker", 1, 10, 2_000_000) } else { disturb("broker", 1, 2, 300_000) }
}

#[test]
fn leaders_that_die_one_after_the_other_cost_nothing() {
    if long() { disturb("leaders", 3, 10, 2_000_000) } else { disturb("leaders", 3, 3, 200_000) }
}

#[test]
fn a_worker_whose_broker_is_out_of_reach_says_so_keeps_its_memory_and_goes_on_by_itself() {
    let rows = 200_000;
    let undisturbed = scratch("away", None, rows);
    let expected = undisturbed.run();
    let network = Network::new();
    let brokers = Brokers::start_with(1, &format!("advertised.listeners=PLAINTEXT://{}", network.address));
    network.lead_to(&brokers.servers);
    let scratch = scratch("away", Some(&network.address), rows);
    let observer = observe(&scratch, &network.address);
    let mut command = scratch.command(&["run", "p.toml", "--json", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let line = worker.wait_for_log("/metrics");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    until("something is written", || written_bytes(&scratch) > 0);
    assert!(get(&address, "/readyz").starts_with("HTTP/1.1 200"));

    network.cut();
    until("it is not ready", || get(&address, "/readyz").starts_with("HTTP/1.1 503"));
    let before = worker.resident_bytes();
    worker.wait_for_log("the bus does not answer");
    assert!(get(&address, "/readyz").contains("the bus: "));
    assert!(get(&address, "/metrics").contains("\nfidelio_bus_up 0\n"));
    std::thread::sleep(Duration::from_secs(if long() { 75 } else { 10 }));
    let grown = worker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    network.mend();
    worker.wait_for_log("the bus answers again");
    worker.ended_well();
    assert_same(&scratch, observer, &undisturbed, &expected);
}
