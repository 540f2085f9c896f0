//! What happens to the brokers: they are killed, stopped and started again while a pipeline runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tempfile::TempDir;

use super::network::Network;
use super::{PATIENCE, SCRIPT, assert_same, observe, results_of, scratch, written, written_bytes};
use crate::support::{Running, Scratch, broker, get, is_ready, long, send_signal, until};

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
        let mut command = Command::new(SCRIPT);
        // Signals are sent to processes.
        command.args(before).arg(self.dir.path()).args(after).env("EXTRA", settings).env("FIDELIO_KAFKA", "jars");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Ends one of them with the signal of that name.
    fn end(&self, number: u32, signal: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join(format!("{number}/pid"))).unwrap();
        let pid: u32 = pid.trim().parse().unwrap();
        send_signal(pid, signal);
        until("the broker has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    }

    fn run(&self, number: u32) {
        self.script(&["run"], &[&number.to_string()], "");
    }

    /// Does what the README says of transactions that the only broker has lost sight of, when it was killed or stopped
    /// before it had ended them. Gives how many there were.
    fn abort_hanging(&self) -> usize {
        let transactions = |arguments: &[&str]| {
            let mut command = Command::new(SCRIPT);
            command.args(["tool", "org.apache.kafka.tools.TransactionsCommand", "--bootstrap-server", &self.servers]);
            let output = command.args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let hanging = transactions(&["find-hanging", "--broker-id", "1", "--max-transaction-timeout", "0"]);
        let found: Vec<Vec<&str>> = hanging.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        for columns in &found {
            let (topic, partition, start) = (columns[0], columns[1], columns[5]);
            transactions(&["abort", "--topic", topic, "--partition", partition, "--start-offset", start]);
        }
        found.len()
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        self.script(&["stop"], &[], "");
    }
}

/// Kills or stops one broker after the other while a worker runs, and starts each again when the worker has noticed: it
/// says so where there was only that one, and goes on where there are others.
fn disturb(name: &str, count: u32, rounds: u32, rows: u64) {
    let undisturbed = scratch(name, None, rows);
    let expected = undisturbed.run();
    let brokers = Brokers::start(count);
    let scratch = scratch(name, Some(&brokers.servers), rows);
    let observer = observe(&scratch, &brokers.servers);
    let (mut worker, address) = start_with_http(&scratch);
    let mut seen = 0;
    for round in 0..rounds {
        until("something more is written", || written_bytes(&scratch) > seen || !worker.is_running());
        let victim = round % count + 1;
        seen = written_bytes(&scratch);
        brokers.end(victim, if round % 2 == 0 { "KILL" } else { "TERM" });
        let noticed = || if count == 1 { !is_ready(&address) } else { written_bytes(&scratch) > seen };
        until("the worker notices", || !worker.is_running() || noticed());
        seen = written_bytes(&scratch);
        brokers.run(victim);
    }
    while worker.ended().code() != Some(0) {
        worker.wait_for_log("has lost sight of");
        assert!(count == 1 && brokers.abort_hanging() > 0, "it ended badly");
        (worker, _) = start_with_http(&scratch);
    }
    assert_same(&scratch, observer, &undisturbed, &expected);
}

/// A worker, and where it says how it is.
fn start_with_http(scratch: &Scratch) -> (Running, String) {
    let mut command = scratch.command(&["run", "p.toml", "--json", "--http", "0"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "info"));
    let address = worker.http_address();
    (worker, address)
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
    let (mut worker, address) = start_with_http(&scratch);
    until("something is written", || written_bytes(&scratch) > 0);
    assert!(is_ready(&address));

    network.cut();
    until("it is not ready", || !is_ready(&address));
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

#[test]
fn a_run_does_not_end_well_while_what_it_has_written_is_hidden_behind_a_transaction() {
    let rows = 100_000;
    let undisturbed = scratch("hidden", None, rows);
    let expected = undisturbed.run();
    let scratch = scratch("hidden", Some(&broker()), rows);
    let complete = written_bytes(&undisturbed);
    let mut command = scratch.command(&["run", "p.toml", "--json"]);
    let mut worker = Running::start(command.env("FIDELIO_LOG", "fidelio::stage::drained=debug"));
    until("something is written", || written_bytes(&scratch) > 0);
    let checkpoints = results_of(&scratch, "priced").replace(".results", ".private.checkpoint");
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker())
        .set("transactional.id", &checkpoints)
        .set("transaction.timeout.ms", "900000")
        .create()
        .unwrap();
    other.init_transactions(PATIENCE).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to(&checkpoints).partition(0).key("somebody").payload("{}")).unwrap();
    other.flush(PATIENCE).unwrap();
    until("all is written", || written_bytes(&scratch) == complete || !worker.is_running());
    // More often than it has to look as if all were over.
    for _ in 0..6 {
        worker.wait_for_log("a transaction hides what was written");
    }
    assert!(worker.is_running());
    if long() {
        worker.wait_for_log("has lost sight of");
        assert_eq!(worker.ended().code(), Some(1));
        worker = Running::start(&mut scratch.command(&["run", "p.toml", "--json"]));
        let said = worker.wait_for_log("has lost sight of");
        assert!(said.contains(&format!("{checkpoints}/0")), "{said}");
        assert_eq!(worker.ended().code(), Some(1));
        other.abort_transaction(PATIENCE).unwrap();
    } else {
        other.abort_transaction(PATIENCE).unwrap();
        worker.ended_well();
    }
    let found = scratch.run();
    found.assert_balanced();
    assert_eq!(found.counts(), expected.counts());
    assert_eq!(written(&scratch), written(&undisturbed));
}
