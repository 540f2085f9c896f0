//! Clauses that the parser reads and the planner passes over unseen, so that a query with one would mean something else
//! than it says. What needs state is `refusal`'s business, and so is the place in the text.
//!
//! Every structure is taken apart to its last field: one that a later parser adds does not compile until somebody has
//! decided what becomes of it.

use datafusion::sql::sqlparser::ast::{
    ConnectByKind, Cte, ForClause, Function, FunctionArgumentClause, FunctionArguments, NullTreatment, Query, Select,
    SelectFlavor, TableAlias, TableFactor, TableVersion, ValueTableMode,
};

/// A clause that there is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clause {
    /// What it is called.
    pub(super) what: &'static str,
    /// The word by which it is found in the text.
    pub(super) keyword: &'static str,
    /// What to do instead.
    pub(super) help: &'static str,
}

const NO_PARTS: &str = "an input is a stream of rows without parts and versions; leave it out";
const NO_ORDER: &str = "rows are processed where they arrive, and in that order; leave it out";
const CONDITION: &str = "write the condition in WHERE";
const ENGINE: &str = "it is a setting for another engine; leave it out";
const OUTPUT: &str = "where the rows go and how they are written is the sink's business; leave it out";
const FEWER: &str = "say in WHERE which rows are meant";
const AGGREGATE_ONLY: &str = "it belongs to an aggregate, and aggregates need state";
const COLUMNS: &str = "name the columns in a select list";

pub(super) fn of_query(query: &Query) -> Vec<Clause> {
    let Query {
        with,
        body: _,
        // These are looked for as what needs state.
        order_by: _,
        limit_clause: _,
        fetch: _,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    let for_clause = for_clause.as_ref().map(|clause| match clause {
        ForClause::Browse => "FOR BROWSE",
        ForClause::Json { .. } => "FOR JSON",
        ForClause::Xml { .. } => "FOR XML",
    });
    let mut clauses = present([
        (!locks.is_empty(), "FOR UPDATE or FOR SHARE", "FOR", "nothing else changes a row; leave it out"),
        (for_clause.is_some(), for_clause.unwrap_or_default(), "FOR", OUTPUT),
        (settings.is_some(), "SETTINGS", "SETTINGS", ENGINE),
        (format_clause.is_some(), "FORMAT", "FORMAT", OUTPUT),
        (
            !pipe_operators.is_empty(),
            "a pipe operator",
            "|>",
            "write a query around the query: SELECT … FROM (SELECT …)",
        ),
    ]);
    clauses.extend(with.iter().flat_map(|with| &with.cte_tables).flat_map(of_named_query));
    clauses
}

fn of_named_query(named: &Cte) -> Vec<Clause> {
    // MATERIALIZED asks for another way to the same rows.
    let Cte { alias, query: _, from, materialized: _, closing_paren_token: _ } = named;
    let mut clauses = present([(from.is_some(), "FROM after a named query", "FROM", "leave it out")]);
    clauses.extend(of_alias(Some(alias)));
    clauses
}

pub(super) fn of_select(select: &Select) -> Vec<Clause> {
    let Select {
        select_token: _,
        // A comment.
        optimizer_hints: _,
        // These are looked for as what needs state.
        distinct: _,
        group_by: _,
        having: _,
        qualify: _,
        window_before_qualify: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        cluster_by,
        distribute_by,
        sort_by,
        named_window: _,
        value_table_mode,
        flavor,
    } = select;
    let no_list = projection.is_empty() || matches!(flavor, SelectFlavor::FromFirstNoSelect);
    let value_mode = value_table_mode.as_ref().map(|mode| match mode {
        ValueTableMode::AsStruct | ValueTableMode::DistinctAsStruct => "SELECT AS STRUCT",
        ValueTableMode::AsValue | ValueTableMode::DistinctAsValue => "SELECT AS VALUE",
    });
    let mut clauses = present([
        (no_list, "a query without a select list", "FROM", "write SELECT * FROM …"),
        (select_modifiers.as_ref().is_some_and(|m| m.is_any_set()), "a modifier of SELECT", "SELECT", ENGINE),
        (top.is_some(), "TOP", "TOP", FEWER),
        (exclude.is_some(), "EXCLUDE at the end of the select list", "EXCLUDE", "write it behind the *"),
        (into.is_some(), "INTO", "INTO", OUTPUT),
        (!lateral_views.is_empty(), "LATERAL VIEW", "LATERAL", "write unnest(…) in the select list"),
        (prewhere.is_some(), "PREWHERE", "PREWHERE", CONDITION),
        (!cluster_by.is_empty(), "CLUSTER BY", "CLUSTER", NO_ORDER),
        (!distribute_by.is_empty(), "DISTRIBUTE BY", "DISTRIBUTE", NO_ORDER),
        (!sort_by.is_empty(), "SORT BY", "SORT", NO_ORDER),
        (value_mode.is_some(), value_mode.unwrap_or_default(), "AS", COLUMNS),
    ]);
    clauses.extend(connect_by.iter().map(|clause| match clause {
        ConnectByKind::ConnectBy { .. } => Clause { what: "CONNECT BY", keyword: "CONNECT", help: CONDITION },
        ConnectByKind::StartWith { .. } => Clause { what: "START WITH", keyword: "START", help: CONDITION },
    }));
    clauses
}

/// Of what can stand in FROM at all.
pub(super) fn of_table(factor: &TableFactor) -> Vec<Clause> {
    let sampled = |sample: bool| (sample, "TABLESAMPLE", "TABLESAMPLE", FEWER);
    match factor {
        TableFactor::Table {
            name: _,
            alias,
            // A table function, which is refused as such.
            args: _,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            let (version_name, version_keyword) = version.as_ref().map_or_else(Default::default, named_version);
            let mut clauses = present([
                (!with_hints.is_empty(), "a WITH hint on an input", "WITH", ENGINE),
                (version.is_some(), version_name, version_keyword, NO_PARTS),
                (*with_ordinality, "WITH ORDINALITY", "ORDINALITY", NO_PARTS),
                (!partitions.is_empty(), "PARTITION on an input", "PARTITION", NO_PARTS),
                (json_path.is_some(), "a path into an input", "", "take the value out of its column"),
                sampled(sample.is_some()),
                (!index_hints.is_empty(), "an index hint", "INDEX", ENGINE),
            ]);
            clauses.extend(of_alias(alias.as_ref()));
            clauses
        }
        TableFactor::Derived { lateral, subquery: _, alias, sample } => {
            let mut clauses = present([
                (*lateral, "LATERAL", "LATERAL", "a query in FROM sees its own inputs only; leave it out"),
                sampled(sample.is_some()),
            ]);
            clauses.extend(of_alias(alias.as_ref()));
            clauses
        }
        TableFactor::NestedJoin { table_with_joins: _, alias } => of_alias(alias.as_ref()),
        _ => Vec::new(),
    }
}

fn named_version(version: &TableVersion) -> (&'static str, &'static str) {
    match version {
        TableVersion::ForSystemTimeAsOf(_) => ("FOR SYSTEM_TIME", "FOR"),
        TableVersion::TimestampAsOf(_) => ("TIMESTAMP AS OF", "TIMESTAMP"),
        TableVersion::VersionAsOf(_) => ("VERSION AS OF", "VERSION"),
        _ => ("the version of an input", ""),
    }
}

fn of_alias(alias: Option<&TableAlias>) -> Vec<Clause> {
    let Some(TableAlias { explicit: _, name: _, columns, at }) = alias else {
        return Vec::new();
    };
    let typed = columns.iter().any(|column| column.data_type.is_some());
    present([
        (typed, "a type in a list of column names", "", "write CAST(… AS …) in the select list"),
        (at.is_some(), "AT after a name", "AT", "leave it out"),
    ])
}

/// Of a call of a function over one row, where whatever chooses or orders among rows has nothing to work on.
pub(super) fn of_function(function: &Function) -> Vec<Clause> {
    let Function { name: _, uses_odbc_syntax: _, parameters, args, filter, null_treatment, over: _, within_group } =
        function;
    let mut clauses = present([
        (!matches!(parameters, FunctionArguments::None), "a second list of arguments", "", AGGREGATE_ONLY),
        (filter.is_some(), "FILTER", "FILTER", "write CASE WHEN … THEN … END"),
        (!within_group.is_empty(), "WITHIN GROUP", "WITHIN", AGGREGATE_ONLY),
    ]);
    clauses.extend(null_treatment.as_ref().map(treatment));
    match args {
        FunctionArguments::None => {}
        FunctionArguments::Subquery(_) => {
            clauses.extend(present([(true, "a query as the argument of a function", "", "write it in FROM")]));
        }
        FunctionArguments::List(list) => {
            let duplicates = list.duplicate_treatment.as_ref();
            clauses.extend(duplicates.map(|_| Clause {
                what: "DISTINCT or ALL before an argument",
                keyword: "",
                help: AGGREGATE_ONLY,
            }));
            clauses.extend(list.clauses.iter().map(of_arguments));
        }
    }
    clauses
}

/// Of a call of a function over several rows.
pub(super) fn of_aggregate(function: &Function) -> Vec<Clause> {
    let Function {
        name: _,
        uses_odbc_syntax: _,
        parameters,
        args,
        filter: _,
        null_treatment: _,
        over: _,
        within_group: _,
    } = function;
    let mut clauses = present([(
        !matches!(parameters, FunctionArguments::None),
        "a second list of arguments",
        "",
        "write all arguments in one list",
    )]);
    if let FunctionArguments::List(list) = args {
        let means_something = |clause: &&FunctionArgumentClause| {
            matches!(clause, FunctionArgumentClause::IgnoreOrRespectNulls(_) | FunctionArgumentClause::OrderBy(_))
        };
        clauses.extend(list.clauses.iter().filter(|clause| !means_something(clause)).map(of_arguments));
    }
    clauses
}

fn of_arguments(clause: &FunctionArgumentClause) -> Clause {
    let (what, keyword) = match clause {
        FunctionArgumentClause::IgnoreOrRespectNulls(nulls) => return treatment(nulls),
        FunctionArgumentClause::OrderBy(_) => ("ORDER BY among arguments", "ORDER"),
        FunctionArgumentClause::Limit(_) => ("LIMIT among arguments", "LIMIT"),
        FunctionArgumentClause::OnOverflow(_) => ("ON OVERFLOW", "OVERFLOW"),
        FunctionArgumentClause::Having(_) => ("HAVING among arguments", "HAVING"),
        FunctionArgumentClause::Separator(_) => ("SEPARATOR", "SEPARATOR"),
        FunctionArgumentClause::JsonNullClause(_) => ("ON NULL", "NULL"),
        FunctionArgumentClause::JsonReturningClause(_) => ("RETURNING", "RETURNING"),
    };
    Clause { what, keyword, help: "leave it out" }
}

fn treatment(nulls: &NullTreatment) -> Clause {
    match nulls {
        NullTreatment::IgnoreNulls => Clause { what: "IGNORE NULLS", keyword: "IGNORE", help: AGGREGATE_ONLY },
        NullTreatment::RespectNulls => Clause { what: "RESPECT NULLS", keyword: "RESPECT", help: AGGREGATE_ONLY },
    }
}

fn present<const N: usize>(rows: [(bool, &'static str, &'static str, &'static str); N]) -> Vec<Clause> {
    let there = rows.into_iter().filter(|(there, ..)| *there);
    there.map(|(_, what, keyword, help)| Clause { what, keyword, help }).collect()
}
