//! Which windows rows are in.

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use super::*;

/// Visits at these times, with a number each from 0 on.
fn visits(times: &[Option<&str>]) -> RecordBatch {
    let text: ArrayRef = Arc::new(StringArray::from(times.to_vec()));
    let at = arrow::compute::cast(&text, &DataType::Timestamp(TimeUnit::Nanosecond, None)).unwrap();
    let start: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![0; times.len()]));
    let columns = vec![Arc::new(Int64Array::from_iter_values(0..times.len() as i64)) as ArrayRef, at, start];
    RecordBatch::try_new(visits_schema(), columns).unwrap()
}

fn visits_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("at", time.clone(), true),
        Field::new("window_start", time, false),
    ]))
}

fn over(sql: &str, times: &[Option<&str>]) -> Output {
    let query = Engine::new().plan(sql, &[("visits", visits_schema())]).unwrap();
    operator(&query).process(0, &visits(times))
}

fn refused(sql: &str) -> (String, String, String) {
    let faults = Engine::new().plan(sql, &[("visits", visits_schema())]).unwrap_err();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    let place = fault.span.clone().map_or("", |span| &sql[span]);
    (fault.message.clone(), place.to_owned(), fault.help.clone().unwrap_or_default())
}

const TIMES: [Option<&str>; 4] = [
    Some("2013-03-10T01:59:59.999999999"),
    Some("2013-03-10T02:00:00"),
    Some("1969-12-31T23:59:59"),
    Some("1970-01-01T00:00:00"),
];

#[test]
fn tumbling_windows_are_half_open_and_go_on_before_1970() {
    let output = over("SELECT id, window_start, window_end FROM tumble(visits, at, INTERVAL '1 hour')", &TIMES);
    assert_eq!(
        rows(&output),
        [
            "0,2013-03-10T01:00:00,2013-03-10T02:00:00",
            "1,2013-03-10T02:00:00,2013-03-10T03:00:00",
            "2,1969-12-31T23:00:00,1970-01-01T00:00:00",
            "3,1970-01-01T00:00:00,1970-01-01T01:00:00",
        ]
    );
}

#[test]
fn an_offset_moves_the_windows() {
    let sql = "SELECT id, window_start AS s FROM tumble(visits, at, INTERVAL '1 day', INTERVAL '5 hours')";
    assert_eq!(
        rows(&over(sql, &TIMES)),
        ["0,2013-03-09T05:00:00", "1,2013-03-09T05:00:00", "2,1969-12-31T05:00:00", "3,1969-12-31T05:00:00"]
    );
}

#[test]
fn a_row_is_in_all_hopping_windows_around_it() {
    let sql = "SELECT id, window_start AS s, window_end AS e \
               FROM hop(visits, at, INTERVAL '30 minutes', INTERVAL '1 hour') WHERE id < 2";
    let output = over(sql, &TIMES);
    assert_eq!(
        rows(&output),
        [
            "0,2013-03-10T01:00:00,2013-03-10T02:00:00",
            "0,2013-03-10T01:30:00,2013-03-10T02:30:00",
            "1,2013-03-10T01:30:00,2013-03-10T02:30:00",
            "1,2013-03-10T02:00:00,2013-03-10T03:00:00",
        ]
    );
    assert_eq!((output.origin.as_slice(), output.left_out.len()), ([0, 0, 1, 1].as_slice(), 2));
}

#[test]
fn windows_are_over_named_queries_and_queries_and_windows_too() {
    let named = "WITH late AS (SELECT id, at FROM visits WHERE id > 2) \
                 SELECT late.id, window_end AS e FROM tumble(late, late.at, INTERVAL '1' MINUTE)";
    assert_eq!(rows(&over(named, &TIMES)), ["3,1970-01-01T00:01:00"]);
    let inner = "SELECT t.id, t.window_end AS e FROM TUMBLE((SELECT id, at FROM visits), at, INTERVAL '60 seconds') AS t \
                 WHERE id = 3";
    assert_eq!(rows(&over(inner, &TIMES)), ["3,1970-01-01T00:01:00"]);
    let twice = "SELECT id, window_end AS e FROM tumble(\
                 (SELECT id, window_end AS hour FROM tumble(visits, at, INTERVAL '1 hour')), hour, INTERVAL '1 day') \
                 WHERE id = 3";
    assert_eq!(rows(&over(twice, &TIMES)), ["3,1970-01-02T00:00:00"]);
}

#[test]
fn the_columns_of_the_windows_take_the_place_of_those_of_the_input() {
    let output = over("SELECT * FROM tumble(visits, window_start, INTERVAL '1 day') WHERE id = 0", &TIMES);
    assert_eq!(rows(&output), ["0,2013-03-10T01:59:59.999999999,1970-01-01T00:00:00,1970-01-02T00:00:00"]);
    let hidden = "WITH Visits AS (SELECT id, at FROM visits WHERE id = 3) \
                  SELECT * FROM tumble(visits, at, INTERVAL '1 day')";
    assert_eq!(rows(&over(hidden, &TIMES)), ["3,1970-01-01T00:00:00,1970-01-01T00:00:00,1970-01-02T00:00:00"]);
}

#[test]
fn a_row_that_is_in_no_window_is_a_reject() {
    for sql in [
        "SELECT id FROM tumble(visits, at, INTERVAL '1 hour') WHERE window_end > window_start",
        "SELECT id, window_start AS s FROM hop(visits, at, INTERVAL '1 hour', INTERVAL '2 hours') WHERE id = 9",
    ] {
        let output = over(sql, &[Some("2013-03-10T02:00:00"), None, Some("1677-09-21T00:12:44")]);
        let rejects: Vec<(usize, &str)> = output.rejects.iter().map(|it| (it.row, it.message.as_str())).collect();
        let none = (1, "a row without a time is in no window");
        assert_eq!(rejects, [none, (2, "the window starts earlier than a timestamp can be")], "{sql}");
    }
}

#[test]
fn windows_over_coarser_timestamps_are_in_their_unit() {
    let second = DataType::Timestamp(TimeUnit::Second, None);
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("at", second.clone(), false)]));
    let plan = |sql: &str| Engine::new().plan(sql, &[("visits", schema.clone())]);
    let query = plan("SELECT window_start, window_end FROM tumble(visits, at, INTERVAL '10 seconds')").unwrap();
    let at = arrow::compute::cast(&Int64Array::from(vec![-1, 19]), &second).unwrap();
    let output = operator(&query).process(0, &RecordBatch::try_new(schema.clone(), vec![at]).unwrap());
    assert_eq!(rows(&output), ["1969-12-31T23:59:50,1970-01-01T00:00:00", "1970-01-01T00:00:10,1970-01-01T00:00:20"]);
    let faults = plan("SELECT window_start FROM tumble(visits, at, INTERVAL '500 milliseconds')").unwrap_err();
    assert_eq!(faults[0].message, "windows over a timestamp(0) are of whole seconds");
}

#[test]
fn what_is_no_window_is_refused_where_it_stands() {
    let cases = [
        ("tumble(visits, at)", "these are not the arguments of tumble", "tumble", "write it as tumble("),
        (
            "hop(visits, at, INTERVAL '1 hour')",
            "these are not the arguments of hop",
            "hop",
            "write it as hop(input, column, INTERVAL '10 minutes', INTERVAL '1 hour')",
        ),
        ("tumble(visits, at, 5)", "this is no interval", "5", "write it as INTERVAL '1 hour'"),
        ("tumble(visits, at, INTERVAL '1 month')", "months and years are not of one length", "'1 month'", "say"),
        ("tumble(visits, at, INTERVAL '0 days')", "a window is longer than nothing", "'0 days'", ""),
        (
            "hop(visits, at, INTERVAL '2 hours', INTERVAL '1 hour')",
            "windows that slide by more than their size leave out what is between them",
            "'2 hours'",
            "the slide comes before the size",
        ),
        (
            "hop(visits, at, INTERVAL '1 second', INTERVAL '101 seconds')",
            "each row would be in 101 windows, and so as many rows; 100 are the most",
            "'1 second'",
            "let the windows slide further",
        ),
        ("tumble(visits, att, INTERVAL '1 hour')", "there is no column `att`", "att", "did you mean `at`?"),
        ("tumble(visit, at, INTERVAL '1 hour')", "there is no input `visit`", "visit", "did you mean `visits`?"),
        (
            "tumble((SELECT * FROM visits), at, INTERVAL '1 hour')",
            "`window_start` can be a column of more than one input",
            "",
            "say of which",
        ),
        ("tumble(visits, ID, INTERVAL '1 hour')", "windows are over a timestamp, and this is a bigint", "ID", ""),
        (
            "tumble((SELECT id FROM visits), id, INTERVAL '1 hour')",
            "windows are over a timestamp, and this is a bigint",
            "",
            "",
        ),
    ];
    for (call, message, place, help) in cases {
        let sql = format!("SELECT window_end FROM {call}");
        let (said, where_, offered) = refused(&sql);
        assert_eq!((said.as_str(), where_.as_str()), (message, place), "{call}");
        assert!(offered.starts_with(help), "{call}: {offered}");
    }
}
