//! What is said about queries that mean nothing, or that a stage cannot evaluate.

use super::*;

fn faults(sql: &str) -> Vec<(String, Option<String>)> {
    let faults = plan(sql).unwrap_err();
    let text = |fault: &Fault| fault.span.clone().map(|span| sql[span].to_owned());
    faults.iter().map(|fault| (fault.message.clone(), text(fault))).collect()
}

#[test]
fn a_cast_of_a_constant_that_always_fails_is_a_fault() {
    assert_eq!(
        faults("SELECT CAST('x' AS int) AS n FROM orders")[0].0,
        "Cannot cast string 'x' to value of Int32 type"
    );
}

#[test]
fn what_needs_an_end_is_refused_at_its_place() {
    for (sql, what, place) in [
        ("SELECT id FROM orders ORDER BY id", "ORDER BY needs an end", "ORDER BY id"),
        ("SELECT id FROM orders LIMIT 3", "LIMIT needs an end", "LIMIT 3"),
        ("SELECT id FROM orders FETCH FIRST 3 ROWS ONLY", "FETCH needs an end", "FETCH FIRST 3 ROWS ONLY"),
        ("SELECT id FROM (SELECT id FROM orders ORDER BY id) o", "ORDER BY needs an end", "ORDER BY id"),
        (
            "SELECT * FROM generate_series(1, 2)",
            "the table function generate_series is not supported",
            "generate_series",
        ),
    ] {
        let found = faults(sql);
        assert!(found[0].0.starts_with(what), "{sql}: {found:?}");
        assert!(
            found[0].1.as_deref().is_some_and(|text| text.contains(place) || place.contains(text)),
            "{sql}: {found:?}"
        );
    }
    let recursive = faults("WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT * FROM t");
    assert!(
        recursive.iter().any(|(message, _)| message.starts_with("a recursive query is not supported")),
        "{recursive:?}"
    );
    let unnest = faults("SELECT * FROM orders, unnest(orders.tags)");
    assert!(unnest.iter().any(|(message, _)| message.starts_with("UNNEST in FROM")), "{unnest:?}");
}

#[test]
fn what_would_be_kept_for_ever_is_refused_at_its_place() {
    for (sql, what, place) in [
        (
            "SELECT a.id FROM orders a JOIN orders b ON a.id = b.id",
            "rows of this join would be kept for ever",
            Some("JOIN"),
        ),
        ("SELECT a.id FROM orders a, orders b", "rows of this join would be kept for ever", None),
        (
            "SELECT id FROM orders EXCEPT SELECT id FROM orders",
            "rows of this join would be kept for ever",
            Some("EXCEPT"),
        ),
        (
            "SELECT id FROM orders WHERE id IN (SELECT qty FROM orders)",
            "rows of this join would be kept for ever",
            Some("IN"),
        ),
        (
            "SELECT id FROM orders WHERE qty = (SELECT max(qty) FROM orders)",
            "this subquery cannot be kept up to date",
            None,
        ),
        (
            "SELECT qty, count(*) AS n FROM orders GROUP BY ROLLUP (qty)",
            "grouping sets are not supported",
            Some("ROLLUP"),
        ),
        (
            "SELECT count(*) AS n FROM orders GROUP BY qty",
            "results replace one another, and nothing in them tells which",
            None,
        ),
    ] {
        let found = faults(sql);
        assert!(found[0].0.starts_with(what), "{sql}: {found:?}");
        assert_eq!(found[0].1.as_deref(), place, "{sql}: {found:?}");
    }
}

#[test]
fn what_is_not_deterministic_is_refused() {
    for (call, name) in [
        ("now()", "now"),
        ("uuid()", "uuid"),
        ("current_date", "current_date"),
        ("current_timestamp", "current_timestamp"),
    ] {
        let found = faults(&format!("SELECT {call} AS t FROM orders"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0.starts_with(&format!("{name}() is not deterministic")), "{found:?}");
        assert_eq!(found[0].1.as_deref(), Some(name));
    }
}

#[test]
fn every_fault_is_told_with_its_place_and_the_nearest_name() {
    let sql = "SELECT idd, uper(name) AS n,\n  prise FROM orders";
    let found = plan(sql).unwrap_err();
    let told: Vec<_> =
        found.iter().map(|f| (f.message.as_str(), &sql[f.span.clone().unwrap()], f.help.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("there is no column `idd`", "idd", Some("did you mean `id`?")),
            ("there is no function `uper`", "uper", Some("did you mean `upper`?")),
            ("there is no column `prise`", "prise", Some("did you mean `price`?")),
        ]
    );
}

#[test]
fn an_unknown_input_is_told_with_the_names_there_are() {
    let fault = plan("SELECT * FROM oders").unwrap_err().remove(0);
    assert_eq!(fault.message, "there is no input `oders`");
    assert_eq!((fault.span, fault.help.as_deref()), (Some(14..19), Some("did you mean `orders`?")));
    let fault = plan("SELECT * FROM nothing_like_it").unwrap_err().remove(0);
    assert_eq!(fault.help.as_deref(), Some("there are `\"late-orders\"`, `orders`"));
}

#[test]
fn broken_syntax_is_told_with_its_place() {
    let sql = "SELECT é, id\nFROM orders WHERE ,";
    let fault = plan(sql).unwrap_err().remove(0);
    assert_eq!(&sql[fault.span.unwrap()], ",");
    assert!(fault.message.starts_with("expected an expression, found: ,"), "{}", fault.message);
    let fault = plan("SELECT id FROM").unwrap_err().remove(0);
    assert!(fault.message.contains("found the end"), "{}", fault.message);
    let fault = plan("SELECT id FROM late-orders").unwrap_err().remove(0);
    assert_eq!(fault.help.as_deref(), Some("write \"late-orders\" in double quotes"));
    assert!(plan("SELECT 'open FROM orders").unwrap_err()[0].message.starts_with("Unterminated string literal"));
    assert_eq!(plan(&format!("SELECT {}1{} FROM orders", "(".repeat(9999), ")".repeat(9999))).unwrap_err().len(), 1);
}

#[test]
fn only_one_query_is_a_query() {
    for (sql, message) in [
        ("", "there is no query"),
        ("SELECT id FROM orders; SELECT 1", "there is more than one query"),
        ("DROP TABLE orders", "this is not a query"),
        ("INSERT INTO orders SELECT * FROM orders", "this is not a query"),
        ("EXPLAIN SELECT id FROM orders", "this is not a query"),
        ("SET a = 1", "this is not a query"),
        ("SELECT 1 AS one", "a part of the query reads none of the stage's inputs"),
        ("VALUES (1)", "a part of the query reads none of the stage's inputs"),
        ("SELECT id, qty AS id FROM orders", "two result columns are named `id`"),
        ("SELECT name -> 'a' AS a FROM orders", "the type of result column `a` differs from row to row"),
        ("SELECT $1 AS a FROM orders", "`$1` stands for a value that nobody gives"),
    ] {
        assert_eq!(faults(sql)[0].0, message, "{sql}");
    }
}

#[test]
fn wrong_types_are_told_without_the_planners_own_words() {
    let found = plan("SELECT upper(tags) AS t, id + name AS u FROM orders").unwrap_err();
    for fault in &found {
        assert!(!fault.message.contains("Error") && !fault.message.contains("error:"), "{}", fault.message);
        assert!(!fault.message.contains('\n'));
    }
}

#[test]
fn a_type_that_does_not_exist_is_told_with_the_nearest() {
    let engine = Engine::new();
    let fault = engine.data_type(" tekst not null").unwrap_err();
    assert_eq!(fault.message, "there is no type `tekst`");
    assert_eq!((fault.span, fault.help.as_deref()), (Some(1..6), Some("did you mean `text`?")));
    let fault = engine.data_type("text not nul").unwrap_err();
    assert_eq!(fault.span, Some(5..8));
    assert!(engine.data_type("").is_err());
    assert!(engine.data_type("decimal(99, 2)").is_err());
}

#[test]
fn a_length_that_nothing_would_enforce_is_refused() {
    let engine = Engine::new();
    for (text, told) in [
        ("varchar(3)", "varchar(3)"),
        ("CHAR(3) not null", "char(3)"),
        ("character varying(3)", "character varying(3)"),
        ("varchar(3)[]", "varchar(3)"),
        ("struct<a varchar(3)>", "varchar(3)"),
        ("string(3)", "string(3)"),
        ("float(53)", "float(53)"),
        ("int(3)", "int(3)"),
    ] {
        assert_eq!(engine.data_type(text).unwrap_err().message, format!("the length in `{told}` is not enforced"));
    }
    assert!(engine.data_type("varchar(3)").unwrap_err().help.unwrap().starts_with("write `text`, which has no limit"));
    for sql in ["SELECT CAST(name AS varchar(3)) AS n FROM orders", "SELECT name::char(3) AS n FROM orders"] {
        let found = faults(sql);
        assert!(found.len() == 1 && found[0].0.ends_with("(3)` is not enforced"), "{found:?}");
    }
}

#[test]
fn a_clause_that_would_be_passed_over_is_refused_at_its_place() {
    for (sql, what, place) in [
        ("SELECT id FROM orders PREWHERE id > 1", "PREWHERE", Some("PREWHERE")),
        ("SELECT id FROM orders TABLESAMPLE (10 PERCENT)", "TABLESAMPLE", Some("TABLESAMPLE")),
        ("SELECT id FROM (SELECT id FROM orders) AS t TABLESAMPLE (10 PERCENT)", "TABLESAMPLE", Some("TABLESAMPLE")),
        ("SELECT id FROM orders CONNECT BY PRIOR id = qty", "CONNECT BY", Some("CONNECT")),
        ("SELECT id FROM orders START WITH id = 1 CONNECT BY PRIOR id = qty", "START WITH", Some("START")),
        ("SELECT upper(name) FILTER (WHERE id > 1) AS n FROM orders", "FILTER", Some("FILTER")),
        ("SELECT upper(DISTINCT name) AS n FROM orders", "DISTINCT or ALL before an argument", None),
        ("SELECT upper(ALL name) AS n FROM orders", "DISTINCT or ALL before an argument", None),
        ("SELECT upper(name ORDER BY id) AS n FROM orders", "ORDER BY among arguments", Some("ORDER")),
        ("SELECT upper(name) WITHIN GROUP (ORDER BY id) AS n FROM orders", "WITHIN GROUP", Some("WITHIN")),
        ("SELECT upper(name IGNORE NULLS) AS n FROM orders", "IGNORE NULLS", Some("IGNORE")),
        ("SELECT unnest(tags) FILTER (WHERE id > 1) AS n FROM orders", "FILTER", Some("FILTER")),
        ("SELECT id FROM orders PARTITION (p0)", "PARTITION on an input", Some("PARTITION")),
        ("SELECT id FROM orders SETTINGS max_threads = 1", "SETTINGS", Some("SETTINGS")),
        ("SELECT id FROM orders FORMAT JSON", "FORMAT", Some("FORMAT")),
        ("SELECT id FROM orders WITH (NOLOCK)", "a WITH hint on an input", Some("WITH")),
        ("SELECT id FROM orders FOR UPDATE", "FOR UPDATE or FOR SHARE", Some("FOR")),
        ("SELECT id FROM orders FOR JSON AUTO", "FOR JSON", Some("FOR")),
        ("SELECT id FROM orders |> WHERE id > 1", "a pipe operator", Some("|>")),
        ("SELECT id INTO other FROM orders", "INTO", Some("INTO")),
        ("SELECT TOP 3 id FROM orders", "TOP", Some("TOP")),
        ("SELECT id FROM orders SORT BY id", "SORT BY", Some("SORT")),
        ("SELECT id FROM orders CLUSTER BY id", "CLUSTER BY", Some("CLUSTER")),
        ("SELECT id FROM orders DISTRIBUTE BY id", "DISTRIBUTE BY", Some("DISTRIBUTE")),
        ("SELECT id FROM orders LATERAL VIEW explode(tags) t AS tag", "LATERAL VIEW", Some("LATERAL")),
        ("FROM orders", "a query without a select list", Some("FROM")),
        ("SELECT FROM orders", "a query without a select list", Some("FROM")),
        ("SELECT t.id FROM (SELECT id FROM orders PREWHERE id > 1) AS t", "PREWHERE", Some("PREWHERE")),
    ] {
        let found = faults(sql);
        let told = (format!("{what} is not supported"), place.map(str::to_owned));
        assert!(found.contains(&told), "{sql}: {found:?}");
    }
    assert!(plan("SELECT id FROM orders QUALIFY id > 1").is_err());
    assert!(plan("SELECT id FROM orders FOR SYSTEM_TIME AS OF '2024-01-01'").is_err());
}

#[test]
fn what_only_looks_like_such_a_clause_is_a_query() {
    for sql in [
        "FROM orders SELECT id",
        "SELECT ALL id FROM orders",
        "SELECT /*+ fast */ id FROM orders",
        "SELECT n FROM (SELECT id FROM orders) AS t (n)",
        "SELECT * EXCLUDE (tags) FROM orders",
        "SELECT (id) FROM (orders)",
    ] {
        assert!(plan(sql).is_ok(), "{sql}: {:?}", plan(sql));
    }
}

#[test]
fn a_contract_that_the_query_cannot_keep_is_a_fault() {
    let contract: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("ident", DataType::Int64, false),
        Field::new("price", DataType::Int64, true),
        Field::new("tags", DataType::Date32, true),
    ]));
    let query = plan("SELECT id AS idend, price, tags FROM orders").unwrap();
    let faults = query.under_contract(&contract).unwrap_err();
    let told: Vec<_> = faults.iter().map(|fault| (fault.message.as_str(), fault.help.as_deref().unwrap())).collect();
    assert_eq!(
        told,
        [
            ("the schema has a column `ident` that the query does not yield", "the query yields `idend`"),
            (
                "column `price` is double in the query and bigint in the schema",
                "a part of the value would be lost unseen; if it may be, write CAST(… AS bigint)"
            ),
            ("column `tags` is int[] in the query and date in the schema", "they cannot be cast; change one of them"),
            (
                "the query yields a column `idend` that the schema does not have",
                "add it to the schema, or leave it out of the query"
            ),
        ]
    );
}

#[test]
fn what_is_nested_as_deep_as_may_be_can_be_run_and_what_is_nested_deeper_is_refused() {
    // The item, what comes before the next one, and by how much each of them makes it deeper.
    for (item, operator) in [
        ("id", " + "),
        ("price", " * "),
        ("name", " || "),
        ("id = 1", " OR "),
        ("(id = 1)", " = "),
        ("CASE WHEN id > 1 THEN 1 END", " + "),
        ("price * price", " + "),
        ("tags", " || "),
    ] {
        let chain = |times: usize| format!("SELECT {} AS x FROM orders", vec![item; times].join(operator));
        let most = (1..=300).rev().find(|times| plan_depth(&chain(*times)).is_none()).unwrap();
        assert!(most > 120, "{most} of {item}{operator}");
        run(&chain(most));
        let (message, place) = faults(&chain(most + 1)).remove(0);
        assert!(message.contains("more than 250 expressions"), "{message}");
        assert!(place.is_some());
    }
}

fn plan_depth(sql: &str) -> Option<Fault> {
    crate::sql::parse::query(sql, &[]).err()
}

#[test]
fn what_is_nested_without_end_is_refused_and_does_no_harm() {
    let many = |item: &str, operator: &str| vec![item; 20_000].join(operator);
    for sql in [
        format!("SELECT {} AS x FROM orders", many("id", "+")),
        format!("SELECT id FROM orders WHERE {}", many("id", "=")),
        format!("SELECT id{} AS x FROM orders", " IS NULL".repeat(20_000)),
        format!("SELECT id{} AS x FROM orders", " IN (1)".repeat(10_000)),
        format!("SELECT id{} AS x FROM orders", "::int".repeat(20_000)),
        format!("SELECT {} AS x FROM orders", many("[1, 2]", "||")),
        format!("SELECT {} AS x FROM orders", many("CASE WHEN true THEN 1 END", "+")),
        many("SELECT id FROM orders", " EXCEPT "),
        many("SELECT id FROM orders", " UNION ALL "),
        format!("SELECT id FROM orders WHERE id IN ({})", many("1", ",").repeat(5)),
    ] {
        let message = faults(&sql).remove(0).0;
        assert!(message.contains("more than") || message.contains("nested too deeply"), "{message} for {sql:.80}");
    }
    let list = format!("SELECT id FROM orders WHERE id IN ({})", many("7", ","));
    assert!(plan(&list).is_ok());
}
