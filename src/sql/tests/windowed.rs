//! What is answered window by window: the same as a batch engine answers over the same rows.

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::datasource::memory::MemTable;
use datafusion::prelude::SessionContext;
use proptest::collection::vec;

use super::*;
use crate::operator::{Absorbed, Nanos, State, Windowed};

const SECOND: i64 = 1_000_000_000;

/// When, where, how much: `(seconds, country, amount)`.
type Sale = (i16, Option<u8>, Option<i8>);

pub(super) fn sales_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("country", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
        Field::new("price", DataType::Float64, true),
    ]))
}

fn sales(rows: &[Sale]) -> RecordBatch {
    let country = |country: &Option<u8>| country.map(|country| format!("c{}", country % 4));
    // Halves of small numbers add up to the same in any order. Some are no numbers at all.
    let price = |amount: &Option<i8>| amount.map(|amount| if amount == 7 { f64::NAN } else { f64::from(amount) / 2.0 });
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampNanosecondArray::from_iter_values(rows.iter().map(|(at, ..)| i64::from(*at) * SECOND))),
        Arc::new(StringArray::from_iter(rows.iter().map(|(_, it, _)| country(it)))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|(_, _, amount)| amount.map(i64::from)))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|(_, _, amount)| price(amount)))),
    ];
    RecordBatch::try_new(sales_schema(), columns).unwrap()
}

fn windowed(sql: &str) -> Windowed {
    let query = Engine::new().plan(sql, &[("sales", sales_schema())]).map_err(|faults| format!("{sql}: {faults:?}"));
    let Answer::Windows(windowed) = query.unwrap().answer() else { panic!("{sql} is evaluated window by window") };
    *windowed
}

/// Takes in rows, and takes down which of them are not late.
fn absorb(operator: &mut Windowed, rows: &[Sale], on_time: &mut Vec<Sale>) -> Absorbed {
    let absorbed = operator.absorb(0, &sales(rows)).unwrap();
    let late = |row: usize| absorbed.rejects.iter().any(|reject| reject.row == row && reject.class == Class::Late);
    on_time.extend(rows.iter().enumerate().filter(|(row, _)| !late(*row)).map(|(_, sale)| *sale));
    absorbed
}

/// What the windows yield, line by line.
fn closed(windowed: &mut Windowed, until: Option<i64>) -> Vec<String> {
    let closed = windowed.close(until.map(|seconds| Nanos::from(seconds * SECOND))).unwrap();
    closed.iter().flat_map(|closed| lines(&closed.results)).collect()
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let output = Output { batch: batch.clone(), origin: Vec::new(), rejects: Vec::new(), left_out: Vec::new() };
    if batch.num_rows() == 0 { Vec::new() } else { rows(&output) }
}

/// What DataFusion makes of all rows at once, where windows are a query in its own words.
fn in_batch(sql: &str, batch: &RecordBatch) -> Vec<String> {
    let context = SessionContext::new();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch.clone()]]).unwrap();
    context.register_table("sales", Arc::new(table)).unwrap();
    let run = async { context.sql(sql).await.unwrap().collect().await.unwrap() };
    let batches = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run);
    let Some(first) = batches.first() else { return Vec::new() };
    lines(&concat_batches(&first.schema(), &batches).unwrap())
}

/// The queries, with `W` in place of the input in windows of a minute, `H` in place of that in windows of a minute that slide
/// by twenty seconds, `G` by 25, `S` in sessions of a country with gaps of less than twenty seconds.
const QUERIES: &[&str] = &[
    "SELECT window_start, country, count(*) AS n, sum(amount) AS total FROM W GROUP BY window_start, country",
    "SELECT country, window_end, avg(price) AS mean, min(amount) AS least, max(amount) AS most FROM W GROUP BY country, window_end",
    "SELECT window_start, stddev(amount) IS NULL AS s, median(amount) AS m, count(DISTINCT country) AS c FROM W GROUP BY window_start",
    "SELECT window_start, approx_distinct(country) AS c, array_agg(amount ORDER BY amount, at) AS a FROM W GROUP BY window_start",
    "SELECT window_start, count(*) FILTER (WHERE amount > 0) AS n FROM W GROUP BY window_start HAVING sum(amount) > 5",
    "SELECT window_start, window_end, country, count(amount) AS n FROM H GROUP BY window_start, window_end, country",
    "SELECT window_start, approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY amount) AS p, bool_or(amount > 3) AS b FROM H WHERE amount IS NOT NULL GROUP BY window_start",
    "SELECT window_start, country, sum(amount) AS total, min(at) AS first FROM G GROUP BY window_start, country",
    "SELECT count(*) AS n, window_end, window_end - window_start AS size, sum(amount) AS total FROM G WHERE amount > -5 GROUP BY window_end, window_start",
    "SELECT window_start, max(at - window_start) AS latest FROM G GROUP BY window_start",
    "SELECT window_start, date_trunc('minute', window_start) AS minute, count(*) AS n FROM H GROUP BY 1, 2",
    "SELECT window_start, count(DISTINCT country) AS c, median(amount) AS m FROM G GROUP BY window_start",
    "SELECT window_end, country, n FROM (SELECT window_end, country, count(*) AS n, row_number() OVER (PARTITION BY window_end ORDER BY count(*) DESC, country) AS r FROM G GROUP BY window_end, country) WHERE r = 1",
    "SELECT window_start, country, count(*) AS n, sum(amount) AS total, window_end FROM S GROUP BY window_start, window_end, country",
    "SELECT country, window_end, max(amount) AS most, avg(price) AS mean FROM S WHERE amount > -3 GROUP BY country, window_end",
    "SELECT window_start, country, amount > 0 AS up, count(*) AS n, count(DISTINCT amount) AS d, min(at) AS first FROM S GROUP BY window_start, country, amount > 0",
    "SELECT window_end, country, max(window_end - at) AS longest FROM S GROUP BY window_end, country",
    "SELECT country, window_start, window_end - window_start AS length, amount FROM S WHERE window_end - window_start > INTERVAL '30 seconds'",
    "SELECT country, window_start, at, row_number() OVER (PARTITION BY window_start, country ORDER BY at, amount) AS n FROM S",
    "SELECT a.country, a.window_end, a.n, b.country AS other FROM (SELECT country, window_end, count(*) AS n FROM S GROUP BY country, window_end) a JOIN (SELECT country, window_end FROM S GROUP BY country, window_end) b ON a.window_end = b.window_end",
    "SELECT window_end, count(*) AS n FROM S GROUP BY window_end",
    "SELECT window_end, amount FROM S WHERE amount > 2",
    "SELECT window_end, n FROM (SELECT e AS window_end, count(*) AS n FROM (SELECT window_end AS e, amount FROM S) AS x GROUP BY e) WHERE n > 1",
    "SELECT a.window_end, a.amount, b.at FROM S a JOIN S b ON a.window_end = b.window_end AND a.amount < b.amount",
    "WITH per AS (SELECT window_start, country, count(*) AS n FROM S GROUP BY window_start, country) SELECT a.window_start, a.country, b.n FROM per a JOIN per b ON a.window_start = b.window_start AND a.country = b.country",
    "SELECT window_start, amount FROM S AS o WHERE EXISTS (SELECT 1 FROM S AS i WHERE i.window_end = o.window_end AND i.amount > o.amount)",
    "SELECT DISTINCT window_start, country FROM W WHERE amount > 0",
    "SELECT * FROM (SELECT window_start, country, amount, at, row_number() OVER (PARTITION BY window_start ORDER BY amount DESC NULLS LAST, country, at) AS rank FROM W) WHERE rank <= 2",
    "SELECT window_start, country, n FROM (SELECT *, rank() OVER (PARTITION BY window_start ORDER BY n DESC) AS r FROM (SELECT window_start, country, count(*) AS n FROM H GROUP BY window_start, country)) WHERE r = 1",
    "WITH per AS (SELECT window_start, country, sum(amount) AS total FROM W GROUP BY window_start, country) SELECT a.window_start, a.country, b.country AS other FROM per a JOIN per b ON a.window_start = b.window_start AND a.total < b.total",
    "SELECT a.window_start, a.country, a.amount, b.amount AS other FROM W a LEFT JOIN W b ON a.window_start = b.window_start AND a.country = b.country AND b.amount > a.amount",
    "SELECT window_start, country, amount FROM W AS o WHERE amount > (SELECT avg(amount) FROM W AS i WHERE i.window_start = o.window_start)",
    "SELECT window_start, country FROM W AS o WHERE EXISTS (SELECT 1 FROM H AS i WHERE i.window_start = o.window_start AND i.country = o.country AND i.window_end = o.window_end)",
    "SELECT window_start, count(*) AS n FROM W GROUP BY window_start UNION ALL SELECT window_start, -count(*) FROM H GROUP BY window_start",
    "SELECT window_start, 2 * sum(amount) + 1 AS odd, CASE WHEN count(*) > 2 THEN 'many' END AS how FROM W GROUP BY window_start",
    "SELECT window_start, sum(total) AS total, count(*) AS countries FROM (SELECT window_start, country, sum(amount) AS total FROM W GROUP BY window_start, country) GROUP BY window_start",
    "SELECT window_start, amount, sum(amount) OVER w AS running FROM W WINDOW w AS (PARTITION BY window_start ORDER BY amount, country, at)",
];

const TUMBLE: &str = "tumble(sales, at, INTERVAL '1 minute')";
const HOP: &str = "hop(sales, at, INTERVAL '20 seconds', INTERVAL '1 minute')";
const TUMBLE_IN_BATCH: &str = "(SELECT *, s AS window_start, s + INTERVAL '1 minute' AS window_end FROM (SELECT *, date_bin(INTERVAL '1 minute', at) AS s FROM sales))";
const HOP_IN_BATCH: &str = "(SELECT *, s AS window_start, s + INTERVAL '1 minute' AS window_end FROM \
    (SELECT sales.*, date_bin(INTERVAL '20 seconds', at) - back.column1 AS s FROM sales CROSS JOIN \
    (VALUES (INTERVAL '0 seconds'), (INTERVAL '20 seconds'), (INTERVAL '40 seconds')) AS back))";

const UNEVEN: &str = "hop(sales, at, INTERVAL '25 seconds', INTERVAL '1 minute', INTERVAL '7 seconds')";
const UNEVEN_IN_BATCH: &str = "(SELECT * FROM (SELECT *, s AS window_start, s + INTERVAL '1 minute' AS window_end FROM \
    (SELECT sales.*, date_bin(INTERVAL '25 seconds', at, TIMESTAMP '1970-01-01T00:00:07') - back.column1 AS s FROM sales CROSS JOIN \
    (VALUES (INTERVAL '0 seconds'), (INTERVAL '25 seconds'), (INTERVAL '50 seconds')) AS back)) WHERE window_end > at)";

const WINDOWS: [&str; 4] = [TUMBLE, HOP, UNEVEN, SESSIONS];
const IN_BATCH: [&str; 4] = [TUMBLE_IN_BATCH, HOP_IN_BATCH, UNEVEN_IN_BATCH, SESSIONS_IN_BATCH];
const SESSIONS: &str = "session(sales, at, INTERVAL '20 seconds', country)";
const SESSIONS_IN_BATCH: &str = "(SELECT at, country, amount, price, min(at) OVER (PARTITION BY country, number) AS window_start, \
    max(at) OVER (PARTITION BY country, number) + INTERVAL '20 seconds' AS window_end FROM \
    (SELECT *, sum(begins) OVER (PARTITION BY country ORDER BY at ROWS UNBOUNDED PRECEDING) AS number FROM \
    (SELECT *, CASE WHEN at - lag(at) OVER (PARTITION BY country ORDER BY at) < INTERVAL '20 seconds' THEN 0 ELSE 1 END AS begins FROM sales)))";

fn over(query: &str, [tumble, hop, uneven, sessions]: [&str; 4]) -> String {
    let query = query.replace("FROM S", &format!("FROM {sessions}")).replace("JOIN S", &format!("JOIN {sessions}"));
    let query = query.replace("FROM G", &format!("FROM {uneven}"));
    query
        .replace("FROM W", &format!("FROM {tumble}"))
        .replace("JOIN W", &format!("JOIN {tumble}"))
        .replace("FROM H", &format!("FROM {hop}"))
}

#[test]
fn every_query_of_the_property_is_taken() {
    for query in QUERIES {
        windowed(&over(query, WINDOWS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn windows_yield_what_a_batch_engine_yields_however_rows_come(
        rows in vec((-200_i16..200, any::<Option<u8>>(), proptest::option::of(-9_i8..9)), 0..80),
        cuts in vec((1_usize..30, -40_i64..200), 1..12),
        which in 0..QUERIES.len(),
    ) {
        let query = QUERIES[which];
        let mut operator = windowed(&over(query, WINDOWS));
        let (mut found, mut on_time) = (Vec::new(), Vec::new());
        let (mut rest, mut cuts) = (rows.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (rows, watermark) = cuts.next().unwrap();
            let (now, later) = rest.split_at(rest.len().min(*rows));
            rest = later;
            let absorbed = absorb(&mut operator, now, &mut on_time);
            prop_assert_eq!((absorbed.rejects.len() + absorbed.left_out.len()) as u64 + absorbed.absorbed, now.len() as u64);
            found.extend(closed(&mut operator, Some(*watermark)));
        }
        found.extend(closed(&mut operator, None));
        prop_assert_eq!(operator.bytes(), 0);
        let mut expected = in_batch(&over(query, IN_BATCH), &sales(&on_time));
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected, "{}", query);
    }
}

#[test]
fn windows_that_rows_are_grouped_by_right_away_can_be_many() {
    let hop = "hop(sales, at, INTERVAL '1 minute', INTERVAL '1 day')";
    let mut operator = windowed(&format!("SELECT window_start, count(*) AS n FROM {hop} GROUP BY window_start"));
    assert_eq!(operator.absorb(0, &sales(&[(0, None, None), (300, None, None)])).unwrap().absorbed, 2);
    assert_eq!(closed(&mut operator, Some(120)), ["1969-12-31T00:01:00,1", "1969-12-31T00:02:00,1"]);
    assert_eq!(closed(&mut operator, None).len(), 1_440 - 2 + 5);
    let sql = format!("SELECT window_start, country FROM {hop} ORDER BY country");
    let faults = Engine::new().plan(&sql, &[("sales", sales_schema())]).unwrap_err();
    assert_eq!(faults[0].message, "each row would be in 1440 windows, and so as many rows; 100 are the most");
    assert_eq!(&sql[faults[0].span.clone().unwrap()], "'1 minute'");
}

#[test]
fn what_is_put_together_has_to_be_in_one_partition() {
    let spread = |key: &[usize]| Spread { name: "sales", key: key.to_vec(), partitions: 4 };
    let alone = Spread { name: "sales", key: Vec::new(), partitions: 1 };
    let (country, amount) = (&[1][..], &[2][..]);
    for (query, fine, not) in [
        ("SELECT window_start, country, count(*) AS n FROM W GROUP BY window_start, country", country, amount),
        ("SELECT window_start, c FROM (SELECT *, country AS c FROM W) GROUP BY window_start, c", country, &[][..]),
        ("SELECT window_start, upper(country) AS c FROM W GROUP BY window_start, upper(country)", &[9][..], country),
        ("SELECT window_start, country, amount FROM H GROUP BY window_start, country, amount", &[1, 2], &[1, 3]),
        ("SELECT window_start, rank() OVER (PARTITION BY amount, window_start) AS r FROM W", amount, country),
        ("SELECT DISTINCT window_start, country FROM W UNION ALL SELECT window_start, country FROM H", country, amount),
        ("SELECT a.at FROM W a JOIN W b ON a.window_start = b.window_start AND a.country = b.country", country, amount),
        (
            "SELECT country, n FROM (SELECT b.country, b.window_start, a.amount AS n FROM W a JOIN W b ON a.window_start = b.window_start AND a.country = b.country) GROUP BY window_start, country, n",
            country,
            amount,
        ),
        // The right side of a left join is null where nothing is found, wherever that is.
        (
            "SELECT c FROM (SELECT a.window_start, b.country AS c FROM W a LEFT JOIN W b ON a.window_start = b.window_start AND a.country = b.country) GROUP BY window_start, c",
            &[9][..],
            country,
        ),
        (
            "SELECT window_start, country FROM W AS o WHERE amount > (SELECT avg(amount) FROM W AS i WHERE i.window_start = o.window_start AND i.country = o.country)",
            country,
            amount,
        ),
        ("SELECT window_start, amount FROM W ORDER BY amount LIMIT 3", &[9][..], country),
    ] {
        let sql = over(query, WINDOWS);
        let query = Engine::new().plan(&sql, &[("sales", sales_schema())]).unwrap();
        assert_eq!(query.spread_faults(std::slice::from_ref(&alone)), [], "{sql}");
        assert!(fine == [9] || query.spread_faults(&[spread(fine)]).is_empty(), "{sql}");
        assert!(!query.spread_faults(&[spread(not)]).is_empty(), "{sql}");
        assert!(!query.spread_faults(&[spread(&[])]).is_empty(), "{sql}");
    }
}

#[test]
fn sessions_grow_together_where_a_row_comes_between_them() {
    let sql = "SELECT window_start, window_end, country, count(*) AS n FROM session(sales, at, INTERVAL '20 seconds', country) \
               GROUP BY window_start, window_end, country";
    let mut operator = windowed(sql);
    let at = |second: i16, country: u8| (second, Some(country), None);
    operator.absorb(0, &sales(&[at(0, 1), at(30, 1), at(30, 2), at(59, 2)])).unwrap();
    // Those of 30 could still grow together with that of 0.
    assert_eq!(closed(&mut operator, Some(15)), Vec::<String>::new());
    operator.absorb(0, &sales(&[at(15, 1)])).unwrap();
    // A row at the end of a session is in the next one.
    operator.absorb(0, &sales(&[at(50, 2)])).unwrap();
    assert_eq!(closed(&mut operator, Some(49)), Vec::<String>::new());
    assert_eq!(
        closed(&mut operator, Some(52)),
        ["1970-01-01T00:00:00,1970-01-01T00:00:50,c1,3", "1970-01-01T00:00:30,1970-01-01T00:00:50,c2,1"]
    );
    let late = operator.absorb(0, &sales(&[at(51, 3), at(52, 3)])).unwrap();
    assert_eq!(late.rejects.iter().map(|reject| (reject.row, reject.class)).collect::<Vec<_>>(), [(0, Class::Late)]);
    assert_eq!(
        closed(&mut operator, None),
        ["1970-01-01T00:00:52,1970-01-01T00:01:12,c3,1", "1970-01-01T00:00:50,1970-01-01T00:01:19,c2,2"]
    );
}

#[test]
fn rows_of_a_session_are_added_up_before_it_is_over() {
    let held = |query: &str| {
        let mut operator = windowed(&over(query, WINDOWS));
        for second in 0..128 {
            operator.absorb(0, &sales(&[(10 * second, Some(1), Some(1)), (10 * second + 5, Some(2), None)])).unwrap();
            operator.close(Some(Nanos::from(10 * second) * Nanos::from(SECOND))).unwrap();
        }
        let merged = operator.shown().unwrap();
        let columns: Vec<&str> = merged[0].schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        let columns = columns.join(", ");
        let chunks = operator.chunks().map(|chunk| chunk.rows.num_rows()).sum::<usize>();
        (merged[0].num_rows(), chunks < 10, columns, closed(&mut operator, None))
    };
    let (rows, are_few, columns, results) = held(
        "SELECT window_start, window_end, country, count(*) AS n FROM S GROUP BY window_start, window_end, country",
    );
    assert_eq!((rows, are_few), (2, true));
    assert_eq!(columns, "window_start, window_end, country, count(Int64(1))[count]");
    assert_eq!(
        results,
        ["1970-01-01T00:00:00,1970-01-01T00:21:30,c1,128", "1970-01-01T00:00:05,1970-01-01T00:21:35,c2,128"]
    );
    // One of the bounds is enough where the columns are there.
    let (rows, are_few, ..) = held("SELECT window_end, country, sum(amount) AS n FROM S GROUP BY window_end, country");
    assert_eq!((rows, are_few), (2, true));
    // What is asked of the bounds is not known before they are.
    let (rows, ..) = held("SELECT window_end, country, max(window_end - at) AS n FROM S GROUP BY window_end, country");
    assert_eq!(rows, 256);
}

#[test]
fn whose_sessions_they_are_has_to_be_known_where_rows_are_put_together() {
    let faults = |sql: &str| Engine::new().plan(sql, &[("sales", sales_schema())]).map(|_| ()).unwrap_err().remove(0);
    let session = "session(sales, at, INTERVAL '20 seconds', country)";
    let all = faults(&format!("SELECT window_start, count(*) AS n FROM {session} GROUP BY window_start"));
    assert_eq!(all.message, "an aggregate over all windows would never be complete");
    let other = format!("SELECT window_start, upper(country) AS c, count(*) AS n FROM {session} GROUP BY 1, 2");
    assert!(faults(&other).help.unwrap().contains("all columns of the session, unchanged"));
    windowed("SELECT window_end, country FROM session(sales, at, INTERVAL '20 seconds', country, country)");
    let unknown = faults("SELECT window_end FROM session(sales, at, INTERVAL '20 seconds', contry)");
    assert_eq!(
        (unknown.message.as_str(), unknown.help.as_deref()),
        ("there is no column `contry`", Some("did you mean `country`?"))
    );
    let other = faults("SELECT window_end FROM session(sales, at, INTERVAL '20 seconds', nothing)");
    assert_eq!(other.help.as_deref(), Some("there are `at`, `country`, `amount`, `price`"));
    let none = faults("SELECT window_end FROM session(sales, at, 20)");
    assert_eq!(none.message, "this is no interval");
    // Without a column, all rows have their sessions together.
    windowed(
        "SELECT window_start, window_end, count(*) AS n FROM session(sales, at, INTERVAL '20 seconds') GROUP BY window_start, window_end",
    );
    let spread = |key: &[usize]| [Spread { name: "sales", key: key.to_vec(), partitions: 4 }];
    let sql = format!("SELECT window_end, country, count(*) AS n FROM {session} GROUP BY window_end, country");
    let query = Engine::new().plan(&sql, &[("sales", sales_schema())]).unwrap();
    assert_eq!(query.spread_faults(&spread(&[1])), []);
    assert!(
        query.spread_faults(&spread(&[2]))[0]
            .message
            .starts_with("the rows of a session can be in any of 4 partitions")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_last_results_of_a_window_are_those_of_all_rows_that_came_before_it_was_gone(
        rows in vec((-200_i16..200, any::<Option<u8>>(), proptest::option::of(-9_i8..9)), 1..80),
        cuts in vec((1_usize..20, -40_i64..200), 1..12),
        kept in 0_i64..150,
        which in 0_usize..4,
    ) {
        let query = [
            "SELECT window_start, country, count(*) AS n, sum(amount) AS total FROM W GROUP BY window_start, country",
            "SELECT window_start, country, count(*) AS n FROM G GROUP BY window_start, country",
            "SELECT window_start, at, amount FROM H WHERE amount > 0",
            "SELECT window_start, country, at, row_number() OVER (PARTITION BY window_start ORDER BY at, amount, country) AS n FROM H",
        ][which].replace("SELECT window_start, at, amount", "SELECT DISTINCT window_start, at, amount");
        let sql = over(&query, WINDOWS);
        let planned = Engine::new().plan(&sql, &[("sales", sales_schema())]).unwrap();
        let planned = planned.with(crate::operator::Also { early: false, corrects_for: Some(kept * SECOND) }).unwrap();
        let Answer::Windows(mut operator) = planned.answer() else { panic!("{sql} is evaluated window by window") };
        let mut last = std::collections::BTreeMap::<String, Vec<String>>::new();
        let mut on_time = Vec::new();
        let (mut rest, mut cuts) = (rows.as_slice(), cuts.iter().cycle());
        let mut take = |results: Vec<RecordBatch>, corrects: bool| {
            let lines: Vec<String> = results.iter().flat_map(lines).collect();
            let mut now = std::collections::BTreeMap::<String, Vec<String>>::new();
            for line in lines {
                let (row, mark) = line.rsplit_once(',').unwrap();
                assert_eq!(mark, corrects.to_string());
                now.entry(row.split(',').next().unwrap().to_owned()).or_default().push(row.to_owned());
            }
            for (window, rows) in now {
                // A window that has closed is there already, unless none of its rows was a result.
                assert!(corrects || !last.contains_key(&window), "{window} closed twice");
                last.insert(window, rows);
            }
        };
        while !rest.is_empty() {
            let (rows, watermark) = cuts.next().unwrap();
            let (now, later) = rest.split_at(rest.len().min(*rows));
            rest = later;
            absorb(&mut operator, now, &mut on_time);
            take(operator.correct().unwrap().into_iter().map(|closed| closed.results).collect(), true);
            let closed = operator.close(Some(Nanos::from(watermark * SECOND))).unwrap();
            take(closed.into_iter().map(|closed| closed.results).collect(), false);
        }
        take(operator.close(None).unwrap().into_iter().map(|closed| closed.results).collect(), false);
        let mut found: Vec<String> = last.into_values().flatten().collect();
        let mut expected = in_batch(&over(&query, IN_BATCH), &sales(&on_time));
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected, "{}", query);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_sessions_have_said_is_at_any_time_that_of_all_rows_so_far(
        rows in vec((-200_i16..200, any::<Option<u8>>(), proptest::option::of(-9_i8..9)), 1..80),
        cuts in vec((1_usize..20, -40_i64..200), 1..12),
        kept in proptest::option::of(0_i64..150),
        which in 0_usize..3,
    ) {
        let query = [
            "SELECT window_start, window_end, country, count(*) AS n, sum(amount) AS total FROM S GROUP BY window_start, window_end, country",
            "SELECT window_start, window_end, country, max(window_end - at) AS longest FROM S GROUP BY window_start, window_end, country",
            "SELECT window_start, window_end, country, at, row_number() OVER (PARTITION BY window_end, country ORDER BY at, amount) AS n FROM S",
        ][which];
        let sql = over(query, WINDOWS);
        let planned = Engine::new().plan(&sql, &[("sales", sales_schema())]).unwrap();
        let also = crate::operator::Also { early: true, corrects_for: kept.map(|kept| kept * SECOND) };
        let Answer::Windows(mut operator) = planned.with(also).unwrap().answer() else { panic!("{sql} has windows") };
        // What was said last, by country and bounds.
        let mut said = std::collections::BTreeMap::<[String; 3], Vec<String>>::new();
        let mut take = |results: Vec<RecordBatch>, marks: [bool; 2]| {
            let mut now = std::collections::BTreeMap::<[String; 3], Vec<String>>::new();
            let marks = marks.into_iter().take(1 + usize::from(kept.is_some())).map(|mark| mark.to_string());
            let marks: Vec<String> = marks.rev().collect();
            for line in results.iter().flat_map(lines) {
                let row = marks.iter().fold(line.as_str(), |line, mark| {
                    let (rest, found) = line.rsplit_once(',').unwrap();
                    assert_eq!(found, mark, "{line}");
                    rest
                });
                let [start, end, country] = [0, 1, 2].map(|column| row.split(',').nth(column).unwrap().to_owned());
                now.entry([country, start, end]).or_default().push(row.to_owned());
            }
            // It replaces all that was said of what is within its bounds.
            let replaced = |of: &[String; 3], by: &[String; 3]| of[0] == by[0] && of[1] >= by[1] && of[2] <= by[2];
            said.retain(|of, _| !now.keys().any(|by| replaced(of, by)));
            said.extend(now);
            let mut all: Vec<String> = said.values().flatten().cloned().collect();
            all.sort();
            all
        };
        let batch = |on_time: &[Sale]| {
            let mut expected = in_batch(&over(query, IN_BATCH), &sales(on_time));
            expected.sort();
            expected
        };
        let mut on_time = Vec::new();
        let (mut rest, mut cuts) = (rows.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (rows, watermark) = cuts.next().unwrap();
            let (now, later) = rest.split_at(rest.len().min(*rows));
            rest = later;
            absorb(&mut operator, now, &mut on_time);
            take(operator.correct().unwrap().into_iter().map(|closed| closed.results).collect(), [false, true]);
            take(operator.close(Some(Nanos::from(watermark * SECOND))).unwrap().into_iter().map(|closed| closed.results).collect(), [false, false]);
            let found = take(operator.early().unwrap().into_iter().map(|closed| closed.results).collect(), [true, false]);
            prop_assert_eq!(found, batch(&on_time), "{}", query);
        }
        let found = take(operator.close(None).unwrap().into_iter().map(|closed| closed.results).collect(), [false, false]);
        prop_assert_eq!(found, batch(&on_time), "{}", query);
    }
}

#[test]
fn windows_into_which_no_row_has_come_close_all_the_same() {
    for from in ["W", "H", "G"] {
        let sql = format!(
            "SELECT window_end, country, count(*) AS n FROM {from} WHERE amount > 0 GROUP BY window_end, country"
        );
        let mut operator = windowed(&over(&sql, WINDOWS));
        assert_eq!(operator.absorb(0, &sales(&[(5, Some(1), None)])).unwrap().left_out, [0]);
        assert_eq!(closed(&mut operator, None), Vec::<String>::new());
        assert_eq!(operator.first_open(), Nanos::MIN);
        // Nothing is late then.
        let absorbed = operator.absorb(0, &sales(&[(-9, Some(1), Some(1))])).unwrap();
        assert_eq!((absorbed.rejects, absorbed.absorbed), (Vec::new(), 1), "{from}");
    }
}

#[test]
fn the_first_time_there_is_is_not_late() {
    let mut operator =
        windowed(&over("SELECT window_end, country, count(*) AS n FROM S GROUP BY window_end, country", WINDOWS));
    let mut columns = sales(&[(0, Some(1), None)]).columns().to_vec();
    columns[0] = Arc::new(TimestampNanosecondArray::from(vec![i64::MIN]));
    operator.absorb(0, &RecordBatch::try_new(sales_schema(), columns).unwrap()).unwrap();
    assert_eq!(closed(&mut operator, None), ["1677-09-21T00:13:03.145224192,c1,1"]);
}

#[test]
fn bounds_of_other_windows_are_columns_like_others() {
    let by_ten = "(SELECT *, window_end AS ten FROM tumble(sales, at, INTERVAL '10 seconds'))";
    let inner = "(SELECT at, country, amount, ten FROM TEN)".replace("TEN", by_ten);
    let rows = [(5, Some(1), Some(1)), (15, Some(1), Some(2)), (25, Some(2), Some(3)), (100, Some(1), Some(4))];
    for (query, expected) in [
        (
            "SELECT window_end, sum(n) AS n FROM (SELECT ten, window_end, count(*) AS n FROM tumble(IN, at, INTERVAL '1 minute') GROUP BY ten, window_end) GROUP BY window_end",
            vec!["1970-01-01T00:01:00,3", "1970-01-01T00:02:00,1"],
        ),
        (
            "SELECT at, window_end, count(*) OVER (PARTITION BY window_end) AS n FROM tumble(IN, at, INTERVAL '1 minute') ORDER BY at",
            vec![
                "1970-01-01T00:00:05,1970-01-01T00:01:00,3",
                "1970-01-01T00:00:15,1970-01-01T00:01:00,3",
                "1970-01-01T00:00:25,1970-01-01T00:01:00,3",
                "1970-01-01T00:01:40,1970-01-01T00:02:00,1",
            ],
        ),
        (
            "SELECT window_end, country, count(*) AS n, max(ten) AS ten FROM session(IN, at, INTERVAL '12 seconds', country) GROUP BY window_end, country",
            vec![
                "1970-01-01T00:00:27,c1,2,1970-01-01T00:00:20",
                "1970-01-01T00:00:37,c2,1,1970-01-01T00:00:30",
                "1970-01-01T00:01:52,c1,1,1970-01-01T00:01:50",
            ],
        ),
    ] {
        let mut operator = windowed(&query.replace("IN,", &format!("{inner},")));
        let mut found = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            operator.absorb(0, &sales(&[*row])).unwrap();
            found.extend(closed(&mut operator, (number < 3).then_some(i64::from(row.0))));
        }
        assert_eq!(found, expected, "{query}");
    }
    let sessions = "(SELECT at, country, window_end AS ended FROM session(sales, at, INTERVAL '10 seconds', country))";
    let sql = format!("SELECT ended, window_end FROM tumble({sessions}, at, INTERVAL '1 minute')");
    let faults = Engine::new().plan(&sql, &[("sales", sales_schema())]).map(|_| ()).unwrap_err();
    assert_eq!(faults[0].message, "these windows are over rows that come of windows, and so only once those close");
}

#[test]
fn sessions_of_different_calls_are_not_taken_for_each_other() {
    let session = |gap: u32, key: &str, of: i64| {
        format!("session((SELECT * FROM sales WHERE amount = {of}), at, INTERVAL '{gap} seconds', {key})")
    };
    let (one, other) = (session(10, "country", 1), session(10, "country", 2));
    let longer = session(20, "price", 1);
    for sql in [
        format!(
            "SELECT window_start, country, count(*) AS n FROM (SELECT * FROM {one} UNION ALL SELECT * FROM {other}) GROUP BY window_start, country"
        ),
        format!(
            "SELECT window_start, country, sum(n) AS n FROM (SELECT window_start, country, count(*) AS n FROM {one} GROUP BY window_start, country UNION ALL SELECT window_start, country, count(*) FROM {other} GROUP BY window_start, country) GROUP BY window_start, country"
        ),
        format!(
            "SELECT a.window_start, b.price, count(*) AS n FROM {one} a JOIN {longer} b ON a.window_end = b.window_end GROUP BY a.window_start, b.price"
        ),
        format!(
            "SELECT rank() OVER (PARTITION BY a.window_start, b.price ORDER BY a.at) AS r FROM {one} a JOIN {longer} b ON a.window_end = b.window_end"
        ),
    ] {
        assert!(Engine::new().plan(&sql, &[("sales", sales_schema())]).is_err(), "{sql}");
    }
    // Those that end together are closed together.
    let sql = format!(
        "SELECT window_end, country, count(*) AS n FROM (SELECT * FROM {one} UNION ALL SELECT * FROM {other}) GROUP BY window_end, country"
    );
    let mut operator = windowed(&sql);
    let row = |second: i16, amount: i8| (second, Some(1), Some(amount));
    operator.absorb(0, &sales(&[row(0, 1), row(0, 2), row(5, 2), row(5, 1), row(12, 1)])).unwrap();
    assert_eq!(closed(&mut operator, None), ["1970-01-01T00:00:15,c1,2", "1970-01-01T00:00:22,c1,3"]);
}

#[test]
fn what_is_kept_of_rows_says_how_it_is_computed() {
    let keeps = |aggregate: &str| {
        let sql = format!("SELECT window_start, {aggregate} AS x FROM W GROUP BY window_start");
        windowed(&over(&sql, WINDOWS)).keeps().to_vec()
    };
    for (one, other) in [
        ("approx_distinct(at)", "approx_distinct(at::date)"),
        ("min(at)", "min(at::timestamp(0)::timestamp)"),
        ("sum(price)", "sum(CAST(CAST(price AS int) AS double))"),
        ("count(*) FILTER (WHERE amount > 1)", "count(*) FILTER (WHERE amount > 2)"),
    ] {
        assert_ne!(keeps(one), keeps(other), "{one} and {other}");
    }
    assert_eq!(keeps("sum(price) + 1"), keeps("2 * sum(price)"));
}

#[test]
fn a_session_that_fails_takes_no_others_along_that_end_at_another_time() {
    let sql = over(
        "SELECT window_end, country, sum(10 / amount) AS n FROM S WHERE window_end > at GROUP BY window_end, country",
        WINDOWS,
    );
    let mut operator = windowed(&sql);
    let rows = [(0, Some(1), Some(0)), (1, Some(2), Some(5)), (2, Some(3), Some(2)), (3, Some(1), Some(2))];
    operator.absorb(0, &sales(&rows)).unwrap();
    let closed = operator.close(None).unwrap();
    let results: Vec<String> = closed.iter().flat_map(|closed| lines(&closed.results)).collect();
    assert_eq!(results, ["1970-01-01T00:00:21,c2,2", "1970-01-01T00:00:22,c3,5"]);
    let failed: Vec<usize> = closed.iter().flat_map(|it| &it.failed).map(|failed| failed.rows.num_rows()).collect();
    assert_eq!(failed, [2]);
}

#[test]
fn both_zeros_are_of_the_same_session() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("k", DataType::Float64, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampNanosecondArray::from_iter_values([1, 2, 3, 9, 9].map(|second| second * SECOND))),
        Arc::new(Float64Array::from(vec![Some(0.0), None, Some(-0.0), Some(0.0), None])),
    ];
    let sql = "SELECT window_start, window_end, k + 1, count(*) AS n FROM session(t, at, INTERVAL '5 seconds', k) \
               GROUP BY window_start, window_end, k";
    let query = Engine::new().plan(sql, &[("t", schema.clone())]).unwrap();
    let Answer::Windows(mut operator) = query.answer() else { panic!("it has windows") };
    operator.absorb(0, &RecordBatch::try_new(schema, columns).unwrap()).unwrap();
    assert_eq!(
        closed(&mut operator, Some(8)),
        ["1970-01-01T00:00:02,1970-01-01T00:00:07,,1", "1970-01-01T00:00:01,1970-01-01T00:00:08,1.0,2"]
    );
}

#[test]
fn what_only_was_the_bound_of_a_window_keeps_no_rows_of_windows_apart() {
    for query in [
        "SELECT window_start::date::timestamp AS d, count(*) AS n FROM W GROUP BY 1",
        "SELECT d, count(*) AS n FROM (SELECT window_start::date::timestamp AS d FROM W) GROUP BY d",
        "SELECT (window_start::timestamp(0))::timestamp(9) AS d, count(*) AS n FROM W GROUP BY 1",
        "SELECT arrow_cast(arrow_cast(window_start, 'Date32'), 'Timestamp(ns)') AS d, count(*) AS n FROM W GROUP BY 1",
        "SELECT rank() OVER (PARTITION BY TRY_CAST(window_start::date AS timestamp) ORDER BY at) AS r, window_start FROM W",
        "SELECT a.at FROM (SELECT at, window_start::date::timestamp AS d FROM W) a JOIN (SELECT window_start::date::timestamp AS d FROM W) b ON a.d = b.d",
        "SELECT ws, sum(n) AS n FROM (SELECT window_start AS ws, count(*) AS n FROM W GROUP BY window_start UNION ALL SELECT window_end, count(*) FROM W GROUP BY window_end) GROUP BY ws",
        "SELECT ws, count(*) AS n FROM (SELECT window_start AS ws FROM W UNION ALL SELECT window_start FROM H) GROUP BY ws",
        "SELECT ws, count(*) AS n FROM (SELECT window_start AS ws FROM W UNION ALL SELECT at FROM sales) GROUP BY ws",
        "SELECT ws, count(*) AS n FROM (SELECT window_start AS ws FROM W UNION ALL SELECT window_start - INTERVAL '2 hours' FROM W) GROUP BY ws",
        "SELECT ws, count(*) AS n FROM (SELECT window_start AS ws FROM W UNION ALL SELECT TIMESTAMP '1970-01-01T00:00:00' FROM W) GROUP BY ws",
        "SELECT window_start, x, count(*) AS n FROM (SELECT window_start, CAST(CAST(country AS boolean) AS text) AS x FROM S) GROUP BY 1, 2",
        "SELECT window_start, count(*) AS n FROM W GROUP BY ROLLUP (window_start)",
    ] {
        let sql = over(query, WINDOWS);
        assert!(Engine::new().plan(&sql, &[("sales", sales_schema())]).is_err(), "{sql}");
    }
    // In a union of the same windows they are still those.
    windowed(&over(
        "SELECT ws, sum(n) AS n FROM (SELECT window_start AS ws, 1 AS n FROM W UNION ALL SELECT window_start, 2 FROM W) GROUP BY ws",
        WINDOWS,
    ));
    let second: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("at", DataType::Timestamp(TimeUnit::Second, None), false)]));
    let faults = Engine::new()
        .plan(
            "SELECT window_end, count(*) AS n FROM session(t, at, INTERVAL '1500 milliseconds') GROUP BY 1",
            &[("t", second)],
        )
        .unwrap_err();
    assert_eq!(faults[0].message, "windows over a timestamp(0) are of whole seconds");
}

#[test]
fn no_function_passes_on_that_its_argument_was_the_bound_of_a_window() {
    let engine = Engine::new();
    let (state, schema) = (&engine.state, sales_schema());
    // Aggregates and window functions are over rows of one window, so that theirs is still its bound.
    let names: Vec<&String> = state.scalar_functions().keys().collect();
    let mut planned = 0;
    for name in names {
        for arguments in [
            "window_start",
            "window_start, window_start",
            "'day', window_start",
            "window_start, 'Timestamp(ns)'",
            "[window_start]",
        ] {
            let sql = format!("SELECT \"{name}\"({arguments}) AS x FROM {TUMBLE}");
            let mut query = parse::query(&sql, &[]).unwrap();
            let inputs = [("sales", schema.clone())];
            let catalog = Catalog::new(state, &inputs);
            crate::sql::windows::replace(&mut query, &sql, &catalog, &inputs);
            let planner = SqlToRel::new_with_options(&catalog, types::parser_options());
            let Ok(plan) = planner.sql_statement_to_plan(Statement::Query(query)) else { continue };
            let Ok(plan) = state.optimize(&plan) else { continue };
            planned += 1;
            assert!(!plan.schema().fields().iter().any(|field| crate::sql::windows::is_marked(field)), "{sql}");
        }
    }
    assert!(planned > 50, "{planned}");
}
