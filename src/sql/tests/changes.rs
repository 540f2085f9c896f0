//! What is answered as rows come: in the end the same as a batch engine answers over the same rows, whatever was cut into which
//! batches, came in which order, and was taken back from a checkpoint on the way.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::{BooleanArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::memory::MemTable;
use datafusion::prelude::SessionContext;
use proptest::collection::vec;

use super::windowed::sales_schema;
use super::*;
use crate::operator::DELETED;
use crate::operator::{Absorbed, Changes, Chunk, Mark, Piece, State};

const SECOND: i64 = 1_000_000_000;
const MICROS: i64 = 1_000_000;

/// When, where, how much: `(seconds, country, amount)`.
type Sale = (u8, Option<u8>, Option<i8>);
/// The name of a country, its tax, or that it is no more.
type Country = (u8, Option<i8>);

#[derive(Debug, Clone)]
enum Event {
    Sales(Vec<Sale>),
    Visits(Vec<Sale>),
    Countries(Vec<Country>),
    Crash,
}

fn countries_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("code", DataType::Utf8, false), Field::new("tax", DataType::Int64, true)]))
}

fn sales(rows: &[Sale]) -> RecordBatch {
    let country = |country: &Option<u8>| country.map(|country| format!("c{}", country % 4));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampNanosecondArray::from_iter_values(rows.iter().map(|(at, ..)| i64::from(*at) * SECOND))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, it, _)| country(it)))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|(_, _, amount)| amount.map(i64::from)))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(_, _, amount)| amount.map(|it| f64::from(it) / 2.0)))),
    ];
    RecordBatch::try_new(sales_schema(), columns).unwrap()
}

fn countries(rows: &[Country]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(code, _)| format!("c{}", code % 4)))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|(_, tax)| tax.filter(|tax| *tax > 0).map(i64::from)))),
        Arc::new(BooleanArray::from(rows.iter().map(|(_, tax)| tax.is_none()).collect::<Vec<_>>())),
    ];
    let deleted = Arc::new(Field::new(DELETED, DataType::Boolean, false));
    let fields = countries_schema().fields().iter().cloned().chain([deleted]).collect::<Vec<_>>();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn inputs() -> [Input<'static>; 3] {
    let of_sales = |name| Input { name, schema: sales_schema(), identity: None, time: Some(0) };
    [
        of_sales("sales"),
        of_sales("visits"),
        Input { name: "countries", schema: countries_schema(), identity: Some(vec![0]), time: None },
    ]
}

fn keep() -> Keep {
    Keep { ttl: Some(1_000_000 * MICROS) }
}

fn planned(sql: &str, keep: &Keep) -> Query {
    let query = Engine::new().plan_over(sql, &inputs(), keep);
    query.map_err(|faults| format!("{sql}: {faults:?}")).unwrap()
}

fn changes(query: &Query) -> Changes {
    let Answer::Changes(changes) = query.answer() else { panic!("it is answered as rows come") };
    *changes
}

/// The queries, none of whose results depends on the order of rows.
const QUERIES: &[&str] = &[
    "SELECT country, count(*) AS n, sum(amount) AS total, avg(price) AS mean FROM sales GROUP BY country",
    "SELECT country, min(amount) AS least, max(amount) AS most, count(DISTINCT amount) AS different FROM sales GROUP BY country",
    "SELECT country, count(*) FILTER (WHERE amount > 0) AS n FROM sales WHERE amount <> 3 GROUP BY country HAVING sum(amount) > 5",
    "SELECT amount > 0 AS up, country, median(amount) AS m, stddev(price) IS NULL AS s FROM sales GROUP BY amount > 0, country",
    "SELECT DISTINCT country, amount FROM sales",
    "SELECT country, amount FROM sales UNION SELECT country, amount FROM visits",
    "SELECT country, count(*) AS n FROM (SELECT country FROM sales UNION ALL SELECT country FROM visits WHERE amount > 0) GROUP BY country",
    "SELECT n, count(*) AS countries FROM (SELECT country, count(*) AS n FROM sales GROUP BY country) GROUP BY n",
    "SELECT n, avg(total) AS mean, sum(total) AS sum, count(total) AS some FROM (SELECT country, count(*) AS n, sum(amount) AS total FROM sales GROUP BY country) GROUP BY n",
    "SELECT n % 2 AS odd, max(total) AS most, min(country) AS first FROM (SELECT country, count(*) AS n, sum(amount) AS total FROM sales GROUP BY country) GROUP BY n % 2",
    "SELECT s.at, s.amount, v.at AS then, v.amount AS other FROM sales s JOIN visits v ON s.country = v.country AND v.at BETWEEN s.at - INTERVAL '5 seconds' AND s.at + INTERVAL '3 seconds'",
    "SELECT s.at, s.amount, v.at AS then, v.amount AS other FROM sales s LEFT JOIN visits v ON s.country = v.country AND v.at BETWEEN s.at - INTERVAL '5 seconds' AND s.at + INTERVAL '3 seconds' AND v.amount > s.amount",
    "SELECT s.at, s.amount, v.at AS then, v.amount AS other FROM sales s RIGHT JOIN visits v ON s.country = v.country AND v.at >= s.at AND v.at < s.at + INTERVAL '7 seconds'",
    "SELECT s.at, s.amount, v.at AS then, v.amount AS other FROM sales s FULL JOIN visits v ON s.country = v.country AND s.at = v.at",
    "SELECT s.at, s.amount FROM sales s WHERE EXISTS (SELECT 1 FROM visits v WHERE s.country = v.country AND v.at BETWEEN s.at - INTERVAL '5 seconds' AND s.at)",
    "SELECT s.at, s.amount FROM sales s WHERE NOT EXISTS (SELECT 1 FROM visits v WHERE s.country = v.country AND v.at BETWEEN s.at AND s.at + INTERVAL '2 seconds')",
    "SELECT a.at, a.amount, b.amount AS next FROM sales a, sales b WHERE a.country = b.country AND b.at > a.at AND b.at <= a.at + INTERVAL '4 seconds' AND a.amount > 0",
    "SELECT s.at, s.amount, v.amount AS other FROM sales s JOIN visits v ON s.amount = v.amount",
    "SELECT code, tax, n FROM countries JOIN (SELECT country, count(*) AS n FROM sales GROUP BY country) ON code = country",
    "SELECT code, tax, n, country FROM countries FULL JOIN (SELECT country, count(*) AS n FROM sales GROUP BY country) ON code = country",
    "SELECT code, tax * 2 AS double FROM countries WHERE tax > 5",
    "SELECT tax > 20 AS high, count(*) AS n, sum(tax) AS total FROM countries GROUP BY tax > 20",
    "SELECT code FROM countries WHERE NOT EXISTS (SELECT 1 FROM sales WHERE country = code) AND tax IS NOT NULL",
    "SELECT country, place, amount FROM (SELECT country, amount, row_number() OVER (PARTITION BY country ORDER BY amount DESC, at) AS place FROM (SELECT DISTINCT at, country, amount FROM sales)) WHERE place <= 2",
    "SELECT country, amount, place FROM (SELECT country, amount, row_number() OVER (PARTITION BY country ORDER BY amount, price) AS place FROM (SELECT DISTINCT country, amount, price FROM sales)) WHERE place = 1",
    "SELECT country, total, place FROM (SELECT country, total, row_number() OVER (ORDER BY total DESC, country) AS place FROM (SELECT country, sum(amount) AS total FROM sales GROUP BY country)) WHERE place <= 2",
    "SELECT country, n, sum(n) OVER (PARTITION BY n % 2) AS together FROM (SELECT country, count(*) AS n FROM sales GROUP BY country)",
    "SELECT count(*) AS n, sum(tax) AS total FROM countries",
    "SELECT country, max(amount) AS most FROM (SELECT s.country, v.amount FROM sales s JOIN visits v ON s.country = v.country AND v.at BETWEEN s.at AND s.at + INTERVAL '6 seconds') GROUP BY country",
    "SELECT country, amount FROM sales EXCEPT SELECT country, amount FROM visits",
    "SELECT country, amount FROM sales INTERSECT SELECT country, amount FROM visits",
    "SELECT DISTINCT ON (s.country) s.country, tax FROM sales s JOIN countries ON s.country = code",
    "SELECT country, array_agg(DISTINCT amount ORDER BY amount) AS amounts FROM sales GROUP BY country",
];

/// Rows in lines.
fn lines(batch: &RecordBatch) -> Vec<String> {
    let output = Output { batch: batch.clone(), origin: Vec::new(), rejects: Vec::new(), left_out: Vec::new() };
    let mut lines = if batch.num_rows() == 0 || batch.num_columns() == 0 { Vec::new() } else { rows(&output) };
    lines.sort();
    lines
}

fn in_batch(sql: &str, tables: &[(&str, RecordBatch)]) -> Vec<String> {
    let context = SessionContext::new();
    for (name, rows) in tables {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap();
        context.register_table(*name, Arc::new(table)).unwrap();
    }
    let run = async { context.sql(sql).await.unwrap().collect().await.unwrap() };
    let batches = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run);
    let Some(first) = batches.first() else { return Vec::new() };
    lines(&concat_batches(&first.schema(), &batches).unwrap())
}

/// What results are in the end: each in place of those that it replaces.
#[derive(Default)]
struct Results {
    identity: Option<Vec<usize>>,
    all: Vec<RecordBatch>,
    latest: BTreeMap<Vec<String>, Option<RecordBatch>>,
}

impl Results {
    fn take(&mut self, operator: &mut Changes) {
        let given = operator.given().unwrap();
        assert_eq!(given.failed, []);
        let Some(identity) = &self.identity else {
            self.all.push(given.results);
            return;
        };
        let width = given.results.num_columns() - 1;
        for row in 0..given.results.num_rows() {
            let row = given.results.slice(row, 1);
            let is_deleted = row.column(width).as_any().downcast_ref::<BooleanArray>().unwrap().value(0);
            let plain = row.project(&(0..width).collect::<Vec<_>>()).unwrap();
            let before = self.latest.get(&lines(&row.project(identity).unwrap())).cloned().flatten();
            if is_deleted {
                assert_eq!(before.as_ref(), Some(&plain), "what is deleted is what there was");
            }
            assert_ne!(before.as_ref().filter(|_| !is_deleted), Some(&plain), "what has not changed is no news");
            self.latest.insert(lines(&row.project(identity).unwrap()), (!is_deleted).then_some(plain));
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut all: Vec<String> = self.all.iter().chain(self.latest.values().flatten()).flat_map(lines).collect();
        all.sort();
        all
    }
}

/// How far inputs are where no row that is left is older.
fn marks(left: &[Event]) -> Vec<Mark> {
    let of = |kind: fn(&Event) -> &[Sale]| {
        let least = left.iter().flat_map(kind).map(|(at, ..)| i64::from(*at) * MICROS).min();
        Mark { time: least.unwrap_or(256 * MICROS), ended: false }
    };
    let sales = of(|event| if let Event::Sales(rows) = event { rows } else { &[] });
    let visits = of(|event| if let Event::Visits(rows) = event { rows } else { &[] });
    vec![sales, visits, Mark { time: sales.time.min(visits.time), ended: false }]
}

fn check(sql: &str, events: &[Event]) {
    let query = planned(sql, &keep());
    let mut operator = changes(&query);
    let mut results = Results { identity: query.identity().map(<[usize]>::to_vec), ..Results::default() };
    let mut log = Vec::new();
    let mut snapshot: Option<(VecDeque<Piece>, Vec<Chunk>)> = None;
    let mut countries_now = BTreeMap::new();
    for (number, event) in events.iter().enumerate() {
        let absorbed = match event {
            Event::Sales(rows) => operator.absorb(0, &sales(rows)).unwrap(),
            Event::Visits(rows) => operator.absorb(1, &sales(rows)).unwrap(),
            Event::Countries(rows) => {
                countries_now.extend(rows.iter().map(|(code, tax)| (code % 4, *tax)));
                operator.absorb(2, &countries(rows)).unwrap()
            }
            Event::Crash => {
                let mut restored = changes(&query);
                restored.restore(operator.closed().as_deref(), log.clone()).unwrap();
                (operator, snapshot) = (restored, None);
                Absorbed::default()
            }
        };
        assert_eq!(absorbed.rejects, []);
        operator.advance(marks(&events[number + 1..])).unwrap();
        results.take(&mut operator);
        let fresh = operator.fresh().unwrap();
        log.extend(fresh.iter().cloned());
        // Now and then all that is kept is written anew, a piece with each commit; once that was all, what is before it is
        // forgotten.
        if let Some((left, since)) = &mut snapshot {
            since.extend(fresh);
            if let Some(piece) = left.pop_front() {
                since.extend(operator.still_kept(piece).unwrap());
            }
            if left.is_empty() {
                log = std::mem::take(since);
                snapshot = None;
            }
        } else if number % 3 == 1 {
            snapshot = Some((operator.pieces(3), Vec::new()));
        }
    }
    let ended = marks(&[]).into_iter().map(|mark| Mark { ended: true, ..mark }).collect();
    operator.advance(ended).unwrap();
    results.take(&mut operator);

    let all = |kind: fn(&Event) -> &[Sale]| sales(&events.iter().flat_map(kind).copied().collect::<Vec<_>>());
    let left: Vec<Country> = countries_now.into_iter().filter(|(_, tax)| tax.is_some()).collect();
    let tables = [
        ("sales", all(|event| if let Event::Sales(rows) = event { rows } else { &[] })),
        ("visits", all(|event| if let Event::Visits(rows) = event { rows } else { &[] })),
        ("countries", countries(&left).project(&[0, 1]).unwrap()),
    ];
    assert_eq!(results.lines(), in_batch(sql, &tables), "{sql}");
}

fn event() -> impl Strategy<Value = Event> {
    let sale = || (0u8..60, proptest::option::weighted(0.9, 0u8..4), proptest::option::weighted(0.8, -9i8..10));
    let country = (0u8..4, proptest::option::weighted(0.8, -3i8..50));
    prop_oneof![
        3 => vec(sale(), 1..9).prop_map(Event::Sales),
        3 => vec(sale(), 1..9).prop_map(Event::Visits),
        2 => vec(country, 1..4).prop_map(Event::Countries),
        1 => Just(Event::Crash),
    ]
}

#[test]
fn a_join_with_a_bound_in_time_keeps_rows_no_longer_and_never_takes_a_result_back() {
    let bounded = |sql: &&&str| {
        sql.contains(" BETWEEN ") || sql.contains(".at >= ") || sql.contains(".at = ") || sql.contains(".at > ")
    };
    let joins: Vec<&&str> = QUERIES.iter().filter(|sql| bounded(sql)).collect();
    assert!(joins.len() > 6);
    for sql in joins {
        let query = planned(sql, &Keep::default());
        let mut operator = changes(&query);
        for at in (0..200).step_by(10) {
            operator.absorb(0, &sales(&[(at, Some(1), Some(4)), (at, None, Some(2))])).unwrap();
            operator.absorb(1, &sales(&[(at, Some(1), Some(3)), (at, Some(2), None)])).unwrap();
            let mark = Mark { time: i64::from(at) * MICROS, ended: false };
            operator.advance(vec![mark; 3]).unwrap();
            assert!(operator.rows() < 20, "{sql} keeps {}", operator.rows());
        }
        let is_aggregate = sql.contains("GROUP BY");
        assert_eq!(query.identity().is_some(), is_aggregate, "{sql}");
        let late = operator.absorb(0, &sales(&[(180, Some(1), Some(4)), (190, Some(1), Some(4))])).unwrap();
        let late: Vec<(usize, Class)> = late.rejects.iter().map(|reject| (reject.row, reject.class)).collect();
        assert_eq!(late, [(0, Class::Late)], "{sql}");
        operator.advance(vec![Mark { time: 200 * MICROS, ended: true }; 3]).unwrap();
        assert!(is_aggregate || operator.rows() == 0, "{sql} keeps {}", operator.rows());
    }
}

/// What comes of rows, one after the other, as the time goes on with them.
fn given(sql: &str, rows: &[Sale]) -> Vec<Vec<String>> {
    let query = planned(sql, &Keep { ttl: Some(10 * MICROS) });
    let mut operator = changes(&query);
    let step = |row: &Sale| {
        operator.see(&[Mark { time: i64::from(row.0) * MICROS, ended: false }; 3]);
        operator.absorb(0, &sales(&[*row])).unwrap();
        operator.advance(vec![Mark { time: i64::from(row.0) * MICROS, ended: false }; 3]).unwrap();
        lines(&operator.given().unwrap().results)
    };
    rows.iter().map(step).collect()
}

#[test]
fn the_first_of_each_comes_once_until_it_is_forgotten() {
    for sql in
        ["SELECT DISTINCT ON (country) country, amount FROM sales", "SELECT DISTINCT country, 7 AS amount FROM sales"]
    {
        let rows = [
            (0, Some(1), Some(7)),
            (1, Some(1), Some(7)),
            (5, Some(2), Some(7)),
            (9, Some(1), Some(7)),
            (30, Some(3), Some(7)),
            (31, Some(1), Some(7)),
        ];
        let [one, two, three] = ["c1,7", "c2,7", "c3,7"].map(|row| vec![row.to_owned()]);
        let none = Vec::new;
        assert_eq!(given(sql, &rows), [one.clone(), none(), two, none(), three, one], "{sql}");
    }
}

#[test]
fn a_group_that_has_had_no_rows_for_too_long_is_deleted() {
    let rows = [
        (0, Some(1), Some(7)),
        (5, Some(1), Some(1)),
        (14, Some(2), Some(2)),
        (16, Some(2), Some(2)),
        (17, Some(1), Some(1)),
    ];
    let found = given("SELECT country, sum(amount) AS total FROM sales GROUP BY country", &rows);
    let expected: [&[&str]; 5] =
        [&["c1,7,false"], &["c1,8,false"], &["c2,2,false"], &["c1,8,true", "c2,4,false"], &["c1,1,false"]];
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("FIDELIO_LONG").is_some() { 400 } else { 12 }, ..ProptestConfig::default() })]

    #[test]
    fn results_are_in_the_end_what_a_batch_engine_answers(events in vec(event(), 0..14)) {
        for sql in QUERIES {
            check(sql, &events);
        }
    }
}
