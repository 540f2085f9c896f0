//! What the tests of whole pipelines share: a folder of their own, the program as a user runs it, and what is in a data
//! directory afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use fidelio::bus::embedded::Reader;
use fidelio::bus::{Channel, Limit, Log, Record, Topic, TopicPartition};
use serde_json::Value;

/// A folder that goes with the test, with a pipeline in it.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// An empty folder.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A folder with a pipeline.
    pub fn with(pipeline: &str) -> Self {
        let scratch = Self::new();
        scratch.write("p.toml", pipeline);
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The lines of a file, as JSON.
    pub fn ndjson(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The program, started in the folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fidelio"));
        command.args(arguments).current_dir(self.dir.path()).env_remove("FAILPOINTS").env("FIDELIO_LOG", "warn");
        command
    }

    /// Runs the program to its end.
    pub fn fidelio(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs the pipeline to its end, which must be a good one, and gives its summary.
    pub fn run(&self) -> Summary {
        let output = self.fidelio(&["run", "p.toml", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        Summary(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Every row that is in the topics of the pipeline is in its books, and the other way round.
    pub fn assert_accounted_for(&self) {
        let output = self.fidelio(&["audit", "p.toml"]);
        let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert_eq!(output.status.code(), Some(0), "{out}{error}");
    }

    /// The dead letters of the pipeline.
    pub fn dead_letters(&self) -> Vec<Value> {
        let output = self.fidelio(&["dlq", "list", "p.toml", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&output.stdout)
    }

    /// The rows of a topic, or of a stage's results, with partition, offset and key.
    pub fn tail(&self, name: &str) -> Vec<Value> {
        let output = self.fidelio(&["tail", name, "--meta"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&output.stdout)
    }

    /// Everything in the data directory that is not about time, by partition. Checkpoints and state are left out: how many there
    /// were depends on when tasks polled.
    pub fn topics(&self) -> BTreeMap<TopicPartition, Vec<Record>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { records(&Reader::open(self.path("data")).unwrap()).await })
    }

    /// When messages of a topic arrived in the pipeline, in microseconds since 1970: of each partition the first ones, as many as
    /// one read gives.
    pub fn published(&self, topic: &str) -> Vec<i64> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (log, topic, mut times) = (Reader::open(self.path("data")).unwrap(), Topic::new(topic), Vec::new());
            for number in 0..log.extents(&topic).await.unwrap().len() as u32 {
                let messages = log.read(&topic.partition(number), 0, READ, Duration::ZERO).await.unwrap();
                times.extend(messages.iter().map(|message| message.record.arrived));
            }
            times
        })
    }
}

/// How much is read of a log at a time.
const READ: Limit = Limit { rows: 1 << 20, bytes: 64 << 20 };

/// Everything in a log that is not about time, by partition, without checkpoints, state and facts about the service.
pub async fn records(log: &dyn Log) -> BTreeMap<TopicPartition, Vec<Record>> {
    let mut records: BTreeMap<TopicPartition, Vec<Record>> = BTreeMap::new();
    let topics = log.topics().await.unwrap();
    let counts = |topic: &&Topic| {
        ![Channel::Checkpoint, Channel::State].iter().any(|channel| topic.as_str().ends_with(channel.suffix()))
    };
    for topic in topics.iter().filter(counts) {
        for (number, extent) in (0..).zip(log.extents(topic).await.unwrap()) {
            let partition = topic.partition(number);
            let into = records.entry(partition.clone()).or_default();
            let mut next = 0;
            while next < extent.end {
                let messages = log.read(&partition, next, READ, Duration::ZERO).await.unwrap();
                next = messages.last().unwrap_or_else(|| panic!("{partition} ends early")).offset + 1;
                let records = messages.into_iter().map(|message| message.record).filter(|record| !is_fact(record));
                into.extend(records.map(|record| Record { arrived: 0, batch: None, ..record }));
            }
        }
    }
    records
}

/// Whether a record is an event about the service.
fn is_fact(record: &Record) -> bool {
    let event = serde_json::from_slice::<Value>(record.payload());
    event.is_ok_and(|event| event["type"].as_str().is_some_and(|kind| kind.starts_with("fidelio.")))
}

/// The summary of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary(pub Value);

impl Summary {
    /// A number of a stage.
    pub fn of(&self, stage: &str, what: &str) -> i64 {
        self.0["stages"][stage][what].as_i64().unwrap_or_else(|| panic!("no {what} of {stage} in {}", self.0))
    }

    /// What every stage has counted.
    pub fn counts(&self) -> BTreeMap<String, Vec<i64>> {
        let counted = [
            "rows_in",
            "rows_out",
            "filtered",
            "expanded",
            "absorbed",
            "emitted",
            "dead_lettered",
            "late",
            "events",
            "pending",
            "lost",
        ];
        let stages = self.0["stages"].as_object().unwrap();
        stages.keys().map(|name| (name.clone(), counted.iter().map(|what| self.of(name, what)).collect())).collect()
    }

    /// Nothing is lost or left, and the counts of every stage balance.
    pub fn assert_balanced(&self) {
        for stage in self.0["stages"].as_object().unwrap().keys() {
            let sum = |counts: &[&str]| counts.iter().map(|what| self.of(stage, what)).sum::<i64>();
            assert_eq!(self.of(stage, "lost"), 0, "{stage}: {}", self.0);
            assert_eq!(self.of(stage, "pending"), 0, "{stage}: {}", self.0);
            assert_eq!(
                sum(&["rows_in", "expanded", "emitted"]),
                sum(&["rows_out", "filtered", "absorbed", "dead_lettered", "late"]),
                "{stage}: {}",
                self.0
            );
        }
    }
}

/// A process that is killed when the test ends. What it says on its standard error is read all the time, as a process that
/// is not listened to comes to a halt, and shown if the test fails.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, said: Vec::new() }
    }

    /// The next line of its standard error that holds the text.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv().unwrap_or_else(|_| panic!("ended without saying {text:?}"));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Where a worker serves what is seen of it over HTTP. It says so once, to whoever logs at the level `info`.
    pub fn http_address(&mut self) -> String {
        let line = self.wait_for_log("/metrics");
        line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for it to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for it to end well, and gives its standard output.
    pub fn ended_well(&mut self) -> String {
        let mut output = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!(self.ended().code(), Some(0));
        output
    }

    /// Kills it, if it still runs, and gives how it ended.
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.ended()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends the signal of that name.
    pub fn signal(&self, name: &str) {
        send_signal(self.child.id(), name);
    }

    /// Its memory, in bytes of RAM.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.said.extend(self.lines.iter());
            eprintln!("process {} said:\n{}\n", self.child.id(), self.said.join("\n"));
        }
    }
}

/// Sends a process the signal of that name.
pub fn send_signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

/// Orders as NDJSON; of each 89 the amount of one is no number, and another one is cut short.
pub fn orders(count: u64) -> String {
    let line = |id: u64| match id % 89 {
        7 => format!("{{\"id\":{id},\"customer\":\"c{}\",\"amount\":\"much\"}}\n", id % 50),
        8 => format!("{{\"id\":{id},\n"),
        _ => format!("{{\"id\":{id},\"customer\":\"c{}\",\"amount\":\"{}\"}}\n", id % 50, id % 1000),
    };
    (0..count).map(line).collect()
}

/// NDJSON as JSON.
pub fn lines(text: &[u8]) -> Vec<Value> {
    String::from_utf8(text.to_vec()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The answer of an HTTP endpoint, with its head. Who asks too often is told so, and asks again.
pub fn get(address: &str, path: &str) -> String {
    loop {
        let answer = send(address, &format!("GET {path} HTTP/1.1\r\nHost: fidelio\r\nConnection: close\r\n\r\n"));
        if !answer.starts_with("HTTP/1.1 429") {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What comes back for bytes that are sent to an address, until it hangs up.
pub fn send(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    // Who is refused need not have been listened to until the end.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// The body of an answer, as JSON.
pub fn json_of(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {head}\n{body}"))
}

/// Whether the worker that serves there says that it is ready.
pub fn is_ready(address: &str) -> bool {
    get(address, "/readyz").starts_with("HTTP/1.1 200")
}

/// Waits until the condition holds, by asking again and again. That it still waits is said where it is seen while the test runs.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut asked = 0u64;
    while !condition() {
        asked += 1;
        if asked.is_multiple_of(3000) {
            let _ = writeln!(std::io::stderr(), "still waiting: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether fault tests run in full.
pub fn long() -> bool {
    std::env::var_os("FIDELIO_LONG").is_some()
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The servers of the broker that the tests share; `tests/run` starts it.
pub fn broker() -> String {
    std::env::var("FIDELIO_TEST_KAFKA").unwrap_or_else(|_| {
        panic!(
            "FIDELIO_TEST_KAFKA does not name a broker: run the tests with tests/run, or start one with \
             `tests/kafka/broker start DIR` and set the variable to what that prints"
        )
    })
}
