//! `fidelio audit`: whether the books of a pipeline balance, by what its topics hold.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::bus;
use crate::cli::{exit, pipeline};
use crate::codec::time;
use crate::fidelity::{Audit, Check, Finding, Minute, Way};
use crate::stage;

/// How many findings are shown to a person.
const SHOWN: usize = 40;

/// Compare the books of a pipeline with what its topics hold, also beside a running worker
///
/// Every row that its topics keep is read and counted by minute of event time, and compared with what the stages say became of
/// it: in the same commits as the rows themselves, they write into their books how many came in, went out, were left out by the
/// query, went into windows or became dead letters. Of a pipeline that runs, minutes that can still change are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_STATUS)]
pub(super) struct Args {
    /// The pipeline file.
    file: PathBuf,
    /// Only minutes of event time from then on, such as 2013-01-01T10:00:00Z or 2013-01-01.
    #[arg(long, value_name = "TIME", value_parser = minute)]
    from: Option<Minute>,
    /// Only minutes of event time before then.
    #[arg(long, value_name = "TIME", value_parser = minute)]
    to: Option<Minute>,
    /// Print one JSON object with all minutes of all stages.
    #[arg(long)]
    json: bool,
    /// Where the embedded log lives, instead of where the pipeline says.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

const EXIT_STATUS: &str = "Exit status:
  0   every row is accounted for
  1   some are not, or the topics cannot be read
  2   the command line is not understood
  78  the pipeline file cannot be read or has faults";

fn minute(text: &str) -> Result<Minute, String> {
    let instant = time::micros(text).map(Minute::of).filter(|minute| *minute != Minute::NONE);
    instant.ok_or_else(|| "a time is written like 2013-01-01T10:00:00Z".to_owned())
}

pub(super) async fn run(args: Args) -> ExitCode {
    let (pipeline, topology) = match pipeline::load(&args.file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // Rows whose time is not known come before all others.
    let range = args.from.unwrap_or(Minute::NONE)..args.to.unwrap_or(Minute::AFTER_ALL);
    let audited = async {
        let log = bus::open_log(&pipeline.bus, args.data_dir.as_deref())?;
        let audit = stage::audit(log.as_ref(), &topology, &range).await?;
        print(&audit, args.json)?;
        Ok::<_, Box<dyn Error>>(audit.findings.is_empty())
    };
    match audited.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(super::FAILED),
        Err(error) => exit::failed_with(error.as_ref(), &pipeline.secrets),
    }
}

fn print(audit: &Audit, json: bool) -> Result<(), Box<dyn Error>> {
    let mut to = io::BufWriter::new(io::stdout().lock());
    if json {
        serde_json::to_writer(&mut to, audit)?;
        writeln!(to)?;
    } else {
        table(audit, &mut to)?;
    }
    Ok(to.flush()?)
}

fn table(audit: &Audit, to: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table.set_header([
        "stage",
        "minutes",
        "final",
        "rows in",
        "out",
        "filtered",
        "expanded",
        "absorbed",
        "emitted",
        "dead-lettered",
        "late",
        "pending",
        "unaccounted",
    ]);
    for account in &audit.stages {
        let counts = &account.total;
        let mut row = vec![account.stage.to_string()];
        let of_minutes = |is_counted: fn(&crate::fidelity::Line) -> bool| {
            account.minutes.iter().filter(|line| line.minute != Minute::NONE && is_counted(line)).count() as u64
        };
        row.extend(
            [
                of_minutes(|_| true),
                of_minutes(|line| line.is_final),
                counts.rows_in,
                counts.rows_out,
                counts.filtered,
                counts.expanded,
                counts.absorbed,
                counts.emitted,
                counts.dead_lettered,
                counts.late,
                account.pending,
            ]
            .map(|rows| rows.to_string()),
        );
        row.push(account.lost.to_string());
        table.add_row(row);
    }
    write_table(table, to)?;
    writeln!(to, "\nfrom end to end")?;
    write_table(ways(&audit.ways), to)?;
    for account in &audit.stages {
        if let Some(since) = account.since {
            let since = time::instant(since);
            writeln!(to, "{}: what was said of minutes before {since} is not all kept any more", account.stage)?;
        }
        if let (Some(minutes), Some(availability)) = (account.slo, account.availability) {
            let (stage, good) = (&account.stage, minutes.good);
            let all = minutes.good + minutes.bad;
            writeln!(to, "{stage}: {good} of {all} minutes were good, {:.3} %", availability * 100.0)?;
        }
        if account.deleted > 0 {
            let (stage, deleted) = (&account.stage, account.deleted);
            writeln!(
                to,
                "{stage}: {deleted} rows are deleted by the retention of its topics, so only its books say them"
            )?;
        }
    }
    match audit.findings.len() {
        0 => writeln!(to, "every row is accounted for"),
        count => {
            writeln!(to, "{count} {} not balance:", if count == 1 { "place does" } else { "places do" })?;
            for finding in audit.findings.iter().take(SHOWN) {
                writeln!(to, "  {}", line(finding))?;
            }
            if count > SHOWN {
                writeln!(to, "  and {} more, which --json shows", count - SHOWN)?;
            }
            Ok(())
        }
    }
}

/// What became of rows between sources and each end.
fn ways(ways: &[Way]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "way",
        "minutes",
        "rows in",
        "copied",
        "expanded",
        "emitted",
        "out",
        "filtered",
        "absorbed",
        "dead-lettered",
        "late",
        "pending",
        "unaccounted",
    ]);
    for Way { from, to, total, minutes } in ways {
        let counts = &total.counts;
        let numbers = [
            minutes.iter().filter(|line| line.minute != Minute::NONE).count() as u64,
            counts.rows_in,
            total.copied,
            counts.expanded,
            counts.emitted,
            counts.rows_out,
            counts.filtered,
            counts.absorbed,
            counts.dead_lettered,
            counts.late,
            total.pending,
        ];
        let way = format!("{} → {to}", from.join(", "));
        let cells = [way].into_iter().chain(numbers.map(|rows| rows.to_string())).chain([total.lost.to_string()]);
        table.add_row(cells);
    }
    table
}

/// Writes a table, numbers to the right.
fn write_table(mut table: Table, to: &mut dyn Write) -> io::Result<()> {
    table.load_preset(NOTHING);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(to, "{table}")
}

fn line(Finding { stage, check, from, minute, rows, message }: &Finding) -> String {
    let place = match (check, from) {
        (Check::Hop, Some(from)) => format!("{from} → {stage}"),
        _ => stage.to_string(),
    };
    let minute = match minute.map(Minute::start) {
        Some(Some(start)) => format!(" {}", time::instant(start)),
        Some(None) => " without event time".to_owned(),
        None => String::new(),
    };
    let rows = match check {
        Check::Pages => String::new(),
        _ => format!(" {rows:+}"),
    };
    format!("{place}{minute}{rows}: {message}")
}
