//! Prints events as NDJSON, for measuring: `events COUNT [PER_SECOND]`. With a rate they come in slices of a
//! millisecond, as a busy service would write them.

use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

const COUNTRIES: [&str; 8] = ["US", "DE", "FR", "GB", "JP", "BR", "IN", "SE"];
const FIRST_MILLIS: u64 = 1_704_067_200_000; // 2024-01-01T00:00:00Z

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Some(Ok(count)), rate) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: events COUNT [PER_SECOND]");
        std::process::exit(2);
    };
    let rate = rate.and_then(Result::ok);
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let started = Instant::now();
    for id in 1..=count {
        event(&mut out, id)?;
        if let Some(rate) = rate
            && id % (rate / 1000).max(1) == 0
        {
            out.flush()?;
            let due = Duration::from_secs_f64(id as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    out.flush()
}

fn event(out: &mut impl Write, id: u64) -> io::Result<()> {
    // A small congruential generator: the same events on every run.
    let random = id.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33;
    let millis = FIRST_MILLIS + id;
    let (seconds, millis) = ((millis / 1000) % 86_400, millis % 1000);
    let day = 1 + ((FIRST_MILLIS + id) / 86_400_000 - FIRST_MILLIS / 86_400_000) % 28;
    let country = COUNTRIES.get(random as usize % COUNTRIES.len()).copied().unwrap_or("US");
    writeln!(
        out,
        r#"{{"id":{id},"ts":"2024-01-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z","country":"{country}","amount":{}.{:02},"qty":{},"sku":"{}-{}"}}"#,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        random % 100,
        random / 100 % 100,
        1 + random % 9,
        (b'A' + (random % 26) as u8) as char,
        random % 100,
    )
}
