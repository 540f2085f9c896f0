//! What queries mean; what is said about those that mean nothing is in `refused`.

mod changes;
mod refused;
mod windowed;
mod windows;

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;

use super::*;
use crate::failure::{Class, Reject};
use crate::operator::Output;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("qty", DataType::Int32, true),
        Field::new("price", DataType::Float64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("tags", DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true))), true),
    ]))
}

fn batch() -> RecordBatch {
    let tags = [Some(vec![Some(1), Some(2)]), None, Some(vec![]), Some(vec![Some(3)])];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, i64::MAX, 4])),
        Arc::new(Int32Array::from(vec![Some(0), None, Some(5), Some(2)])),
        Arc::new(Float64Array::from(vec![Some(1.5), Some(2.0), None, Some(-3.0)])),
        Arc::new(StringArray::from(vec![Some("7"), Some("x"), Some("9"), None])),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(tags)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn plan(sql: &str) -> Result<Query, Vec<Fault>> {
    Engine::new().plan(sql, &[("orders", schema()), ("late-orders", schema())])
}

fn operator(query: &Query) -> Box<dyn Operator> {
    query.operator().unwrap()
}

fn run(sql: &str) -> Output {
    processed(&plan(sql).unwrap(), 0)
}

/// What the query makes of the batch, of which each row has to be accounted for.
fn processed(query: &Query, input: usize) -> Output {
    let output = operator(query).process(input, &batch());
    let with_results = output.origin.chunk_by(|a, b| a == b).count();
    assert_eq!(with_results + output.rejects.len() + output.left_out.len(), batch().num_rows());
    output
}

fn rows(output: &Output) -> Vec<String> {
    let table = pretty_format_batches(std::slice::from_ref(&output.batch)).unwrap().to_string();
    let lines: Vec<&str> = table.lines().collect();
    let cells = |line: &&str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    lines[3..lines.len() - 1].iter().map(cells).collect()
}

fn rejected(row: usize, class: Class, message: &str) -> Reject {
    Reject { row, class, message: message.into() }
}

#[test]
fn a_query_filters_and_computes() {
    let output = run("SELECT id, price * 2 AS double_price FROM orders WHERE price > 0");
    assert_eq!(rows(&output), ["1,3.0", "2,4.0"]);
    assert_eq!(output.origin, [0, 1]);
    assert_eq!(output.rejects, []);
}

#[test]
fn all_columns_of_an_input_pass_unchanged() {
    let output = run("SELECT * FROM orders");
    assert_eq!(output.batch.columns(), batch().columns());
    assert_eq!(output.origin, [0, 1, 2, 3]);
}

#[test]
fn overflow_rejects_the_row_and_no_other() {
    for sql in ["SELECT id + 1 AS n FROM orders", "SELECT id * 2 AS n FROM orders", "SELECT -id - 2 AS n FROM orders"] {
        let output = run(sql);
        assert_eq!(output.origin, [0, 1, 3]);
        assert_eq!(output.rejects.len(), 1);
        assert_eq!((output.rejects[0].row, output.rejects[0].class), (2, Class::Expression));
        assert!(output.rejects[0].message.starts_with("Overflow happened on: "), "{}", output.rejects[0].message);
    }
}

#[test]
fn a_constant_that_overflows_does_not_wrap_when_it_is_worked_out_early() {
    let output = run("SELECT big + 1 AS n FROM (SELECT 9223372036854775807 AS big, id FROM orders) AS t");
    assert_eq!(output.batch.num_rows(), 0);
    assert_eq!(output.rejects.len(), 4);
    let output = run("SELECT -(small) AS n FROM (SELECT -9223372036854775807 - 1 AS small, id FROM orders) AS t");
    assert_eq!(output.rejects.len(), 4);
}

#[test]
fn a_failing_cast_is_told_in_the_words_of_its_own_row() {
    let output = run("SELECT CAST(name AS int) AS n FROM orders");
    assert_eq!(rows(&output), ["7", "9", ""]);
    assert_eq!(output.rejects, [rejected(1, Class::Expression, "Cannot cast string 'x' to value of Int32 type")]);
    assert_eq!(rows(&run("SELECT TRY_CAST(name AS int) AS n FROM orders")), ["7", "", "9", ""]);
}

#[test]
fn division_by_zero_is_guarded_by_the_condition_before_it() {
    let output = run("SELECT id FROM orders WHERE qty <> 0 AND 10 / qty >= 2");
    assert_eq!((output.origin.as_slice(), output.rejects.len()), ([2, 3].as_slice(), 0));
    let output = run("SELECT id, qty = 0 OR 10 / qty >= 2 AS few FROM orders");
    assert_eq!((output.origin.len(), output.rejects.len()), (4, 0));
    let output = run("SELECT id, 10 / qty AS share FROM (SELECT * FROM orders WHERE qty <> 0) AS t WHERE 10 / qty > 2");
    assert_eq!((output.origin.as_slice(), output.rejects.len()), ([3].as_slice(), 0));
    let output = run("SELECT CASE WHEN qty <> 0 THEN 10 / qty ELSE 0 END AS share FROM orders");
    assert_eq!(rows(&output), ["0", "0", "2", "5"]);
    let output = run("SELECT 10 / qty AS share FROM orders");
    assert_eq!(output.rejects, [rejected(0, Class::Expression, "division by zero")]);
}

#[test]
fn a_row_that_a_condition_leaves_out_is_not_evaluated_any_further() {
    let output = run("SELECT 1 / 0 AS never FROM orders WHERE id > 3");
    assert_eq!(output.rejects.iter().map(|reject| reject.row).collect::<Vec<_>>(), [2, 3]);
    let output = run("SELECT CAST(name AS int) AS n FROM orders WHERE name <> 'x'");
    assert_eq!((output.origin.as_slice(), output.rejects.len()), ([0, 2].as_slice(), 0));
}

#[test]
fn unnest_makes_many_rows_of_one() {
    let output = run("SELECT id, unnest(tags) AS tag FROM orders");
    assert_eq!(rows(&output), ["1,1", "1,2", "4,3"]);
    assert_eq!(output.origin, [0, 0, 3]);
    let output =
        run("SELECT tag + 1 AS tag FROM (SELECT id, unnest(tags) AS tag FROM orders WHERE id > 1) WHERE tag > 2");
    assert_eq!((rows(&output), output.origin), (vec!["4".to_owned()], vec![3]));
    let output = run("SELECT unnest(named_struct('a', id, 'b', name)) FROM orders WHERE id < 3");
    assert_eq!(rows(&output), ["1,7", "2,x"]);
}

#[test]
fn a_union_keeps_the_results_of_a_row_together() {
    let sql = "SELECT id, 'all' AS kind FROM orders UNION ALL SELECT qty, name FROM orders WHERE qty > 1 \
               UNION ALL SELECT id, 'late' FROM \"late-orders\"";
    let query = plan(sql).unwrap();
    let output = processed(&query, 0);
    assert_eq!(rows(&output), ["1,all", "2,all", "9223372036854775807,all", "5,9", "4,all", "2,"]);
    assert_eq!(output.origin, [0, 1, 2, 2, 3, 3]);
    assert_eq!(rows(&processed(&query, 1))[0], "1,late");
}

#[test]
fn a_row_that_fails_in_one_branch_has_no_result_in_another() {
    let output = run("SELECT id FROM orders UNION ALL SELECT CAST(name AS bigint) FROM orders");
    assert_eq!(output.origin, [0, 0, 2, 2, 3, 3]);
    assert_eq!(output.rejects.len(), 1);
}

#[test]
fn a_condition_that_is_never_true_filters_everything() {
    let output = run("SELECT id FROM orders WHERE 1 = 2");
    assert_eq!((output.batch.num_rows(), output.rejects.len()), (0, 0));
    assert_eq!(output.batch.schema().field(0).name(), "id");
}

#[test]
fn an_input_that_the_query_does_not_read_is_filtered() {
    assert_eq!(processed(&plan("SELECT id FROM orders").unwrap(), 1).batch.num_rows(), 0);
}

#[test]
fn functions_over_one_row_are_there() {
    for expression in [
        "upper(name)",
        "substr(name, 1, 1)",
        "regexp_replace(name, 'x', 'y')",
        "coalesce(qty, 1)",
        "nullif(qty, 0)",
        "date_trunc('hour', to_timestamp(qty))",
        "md5(name)",
        "encode(name, 'hex')",
        "tags[1]",
        "array_length(tags)",
        "json_get_str(name, 'a')",
        "name ->> 'a'",
        "concat(name, '-', qty)",
        "CASE qty WHEN 0 THEN 'none' ELSE 'some' END",
        "named_struct('a', qty)['a']",
        "name LIKE '%x%'",
        "qty IN (1, 2)",
        "qty BETWEEN 1 AND 2",
        "EXTRACT(hour FROM to_timestamp(qty))",
        "to_timestamp(qty) + INTERVAL '1 day'",
        "date_bin(INTERVAL '1 hour', to_timestamp(qty))",
        "nvl2(qty, 1, 2)",
        "greatest(qty, 1)",
        "make_array(qty, 2)",
        "position('x' IN name)",
        "trim(name)",
        "split_part(name, ',', 1)",
        "price::text",
        "DATE '2024-01-01'",
        "NULL",
        "arrow_typeof(qty)",
        "struct(qty, name)",
        "name ~ '^x'",
        "name || 'y'",
        "price % 2",
        "qty & 1",
    ] {
        let sql = format!("SELECT {expression} AS value FROM orders");
        let query = plan(&sql).unwrap_or_else(|faults| panic!("{expression}: {faults:?}"));
        let output = processed(&query, 0);
        assert_eq!(output.rejects, [], "{expression}");
        assert_eq!(output.batch.num_rows(), 4, "{expression}");
    }
}

#[test]
fn sql_types_become_arrow_types() {
    let engine = Engine::new();
    let ns = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
    for (text, expected) in [
        ("text", DataType::Utf8),
        ("varchar", DataType::Utf8),
        ("string", DataType::Utf8),
        ("int", DataType::Int32),
        ("BIGINT", DataType::Int64),
        ("smallint", DataType::Int16),
        ("double", DataType::Float64),
        ("double precision", DataType::Float64),
        ("real", DataType::Float32),
        ("boolean", DataType::Boolean),
        ("date", DataType::Date32),
        ("timestamp", ns.clone()),
        ("timestamp with time zone", ns.clone()),
        ("timestamptz", ns),
        ("timestamp(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("decimal(10, 2)", DataType::Decimal128(10, 2)),
        ("bytea", DataType::Binary),
        ("text[]", list(DataType::Utf8)),
        ("array<int>", list(DataType::Int32)),
        (
            "struct<a int, b text>",
            DataType::Struct(
                vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Utf8, true)].into(),
            ),
        ),
    ] {
        assert_eq!(engine.data_type(text).unwrap(), (expected.clone(), true), "{text}");
        assert_eq!(engine.data_type(&format!("{text} NOT NULL")).unwrap(), (expected, false), "{text} not null");
    }
}

#[test]
fn a_function_that_panics_on_a_row_rejects_the_row_and_no_other() {
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    let mut engine = Engine::new();
    let fragile = |args: &[ColumnarValue]| {
        let ids = ColumnarValue::values_to_arrays(args)?.remove(0);
        let ids = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&ids);
        assert!(!ids.values().contains(&2), "byte array offset overflow");
        Ok(args[0].clone())
    };
    let types = vec![DataType::Int64];
    engine.register(create_udf("fragile", types, DataType::Int64, Volatility::Immutable, Arc::new(fragile)));
    let query = engine.plan("SELECT fragile(id) AS id FROM orders", &[("orders", schema())]).unwrap();
    let output = processed(&query, 0);
    assert_eq!(output.origin, [0, 2, 3]);
    assert_eq!(output.rejects, [rejected(1, Class::Expression, "a function gave up: byte array offset overflow")]);
    // A constant is worked out when the query is planned.
    let planned = engine.plan("SELECT fragile(2) AS id FROM orders", &[("orders", schema())]);
    assert_eq!(planned.err().unwrap()[0].message, "a function gave up: byte array offset overflow");
}

#[test]
fn a_contract_orders_and_casts_columns_and_rejects_what_breaks_it() {
    let contract: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("qty", DataType::Int32, false), Field::new("n", DataType::Int32, true)]));
    let query = plan("SELECT id AS n, qty FROM orders").unwrap().under_contract(&contract).unwrap();
    assert_eq!(query.schema, contract);
    let output = processed(&query, 0);
    assert_eq!((rows(&output), output.origin), (vec!["0,1".to_owned(), "2,4".to_owned()], vec![0, 3]));
    let message = "column `n`: Can't cast value 9223372036854775807 to type Int32";
    let null = "column `qty` must not be null";
    assert_eq!(output.rejects, [rejected(1, Class::Contract, null), rejected(2, Class::Contract, message)]);
}

#[test]
fn a_registered_function_can_be_called() {
    use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    let mut engine = Engine::new();
    let identity = |args: &[ColumnarValue]| Ok(args[0].clone());
    let types = vec![DataType::Int64];
    engine.register(create_udf("same", types, DataType::Int64, Volatility::Immutable, Arc::new(identity)));
    let query = engine.plan("SELECT same(id) AS id FROM orders", &[("orders", schema())]).unwrap();
    assert_eq!(processed(&query, 0).origin, [0, 1, 2, 3]);
}

#[test]
fn hundreds_of_batches_unnest_within_one_task() {
    let run = async {
        let mut operator = operator(&plan("SELECT id, unnest(tags) AS tag FROM orders").unwrap());
        (0..500).map(|_| operator.process(0, &batch()).origin.len()).sum::<usize>()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(runtime.spawn(run)).unwrap(), 1500);
}

const QUERIES: &[&str] = &[
    "SELECT id, qty FROM t WHERE qty <> 0 AND 10 / qty > 1",
    "SELECT id, 10 / qty AS q FROM t WHERE id > 2",
    "SELECT id + qty AS s, CASE WHEN qty > 3 THEN 20 / (qty - 5) ELSE CAST(name AS int) END AS c FROM t",
    "SELECT id, unnest(range(0, qty)) AS n FROM t WHERE qty IS NULL OR 7 / qty < 3",
    "SELECT id, name FROM t UNION ALL SELECT qty, upper(name) FROM t WHERE CAST(name AS int) > 3 \
     UNION ALL SELECT unnest(make_array(id, 100 / qty)), 'both' FROM t",
    "SELECT id, qty > 2 AND CAST(name AS int) > 1 AS a, qty < 2 OR CAST(name AS int) > 1 AS o FROM t",
];

fn small_batch(rows: &[(i64, Option<i32>, Option<String>)]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("qty", DataType::Int32, true),
        Field::new("name", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|row| row.2.clone()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn results_do_not_depend_on_how_the_input_is_divided_into_batches(
        rows in prop::collection::vec(
            (0i64..6, prop::option::of(-1i32..7), prop::option::of("[0-9x]{1,2}")), 0..40,
        ),
        cuts in prop::collection::vec(0usize..40, 0..6),
        query in 0usize..QUERIES.len(),
    ) {
        let batch = small_batch(&rows);
        let query = Engine::new().plan(QUERIES[query], &[("t", batch.schema())]).unwrap();
        let whole = operator(&query).process(0, &batch);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).chain([0, rows.len()]).collect();
        cuts.sort_unstable();
        let (mut batches, mut origin, mut rejects) = (Vec::new(), Vec::new(), Vec::new());
        for cut in cuts.windows(2) {
            let output = operator(&query).process(0, &batch.slice(cut[0], cut[1] - cut[0]));
            origin.extend(output.origin.iter().map(|row| row + cut[0] as u32));
            rejects.extend(output.rejects.into_iter().map(|reject| Reject { row: reject.row + cut[0], ..reject }));
            batches.push(output.batch);
        }
        let parts = arrow::compute::concat_batches(&query.schema, &batches).unwrap();
        prop_assert_eq!(&whole.batch, &parts);
        prop_assert_eq!(&whole.origin, &origin);
        prop_assert_eq!(&whole.rejects, &rejects);
        prop_assert!(whole.origin.is_sorted());
        prop_assert!(whole.rejects.iter().all(|reject| !whole.origin.contains(&(reject.row as u32))));
    }
}
