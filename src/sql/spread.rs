//! Over which partitions the rows are spread that a query puts together. Each partition is read by a task of its own, so rows
//! that are put together have to be in the same one: in the only one there is, or in that of the key which all of them share.

use std::collections::BTreeSet;

use datafusion::logical_expr::{Aggregate, Expr, Join, JoinType, LogicalPlan, Window};

use super::{Fault, windows};

/// How the rows of an input are spread over its partitions.
#[derive(Debug, Clone)]
pub struct Spread<'a> {
    /// The name of the input.
    pub name: &'a str,
    /// The columns of its key; rows without one are anywhere.
    pub key: Vec<usize>,
    /// The number of its partitions.
    pub partitions: u32,
}

/// How rows are spread.
#[derive(Debug, Clone, PartialEq)]
enum Rows {
    /// All are in the first partition.
    Together,
    /// Those that have the same values are in the same of so many partitions: for each part of the key, the columns that have it.
    By(u32, Vec<BTreeSet<usize>>),
    /// Anywhere.
    Anyhow,
}

/// What a query puts together of rows that can be in different partitions.
pub(super) fn faults(plan: &LogicalPlan, inputs: &[Spread<'_>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    if inputs.iter().any(|input| input.partitions > 1) {
        Search { inputs, faults: &mut faults }.rows(plan);
    }
    faults
}

struct Search<'a> {
    inputs: &'a [Spread<'a>],
    faults: &'a mut Vec<Fault>,
}

impl Search<'_> {
    /// How the rows that a plan yields are spread.
    fn rows(&mut self, plan: &LogicalPlan) -> Rows {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let Some(input) = self.inputs.iter().find(|input| input.name == scan.table_name.table()) else {
                    return Rows::Anyhow;
                };
                let place = |column: &usize| match &scan.projection {
                    Some(columns) => columns.iter().position(|it| it == column),
                    None => Some(*column),
                };
                let columns = scan.source.schema();
                let is_float =
                    |column: &usize| columns.fields().get(*column).is_some_and(|it| it.data_type().is_floating());
                match (input.partitions, input.key.as_slice()) {
                    (0 | 1, _) => Rows::Together,
                    (_, []) => Rows::Anyhow,
                    // SQL takes 0.0 and -0.0 for the same, and their texts, by which rows are divided, are not.
                    (_, key) if key.iter().any(is_float) => Rows::Anyhow,
                    (partitions, key) => {
                        let parts = key.iter().map(|column| place(column).into_iter().collect());
                        known(partitions, parts.collect())
                    }
                }
            }
            LogicalPlan::SubqueryAlias(alias) => self.rows(&alias.input),
            LogicalPlan::Filter(filter) => self.rows(&filter.input),
            LogicalPlan::Sort(sort) => self.rows(&sort.input),
            LogicalPlan::Limit(limit) => {
                let rows = self.rows(&limit.input);
                self.demand(rows == Rows::Together, "the rows of a window, of which LIMIT chooses some,", &[]);
                rows
            }
            LogicalPlan::Projection(projection) => {
                let rows = self.rows(&projection.input);
                for expr in &projection.expr {
                    if let Expr::ScalarFunction(call) = expr.clone().unalias()
                        && let Some(columns) = windows::of_session(&call)
                    {
                        let found = covers(&rows, &outputs(columns, &projection.input).into_iter().flatten().collect());
                        self.demand(found, "the rows of a session", &names(columns));
                    }
                }
                moved(rows, &outputs(&projection.expr, &projection.input))
            }
            LogicalPlan::Unnest(unnest) => {
                let rows = self.rows(&unnest.input);
                let is_list = |column: usize| unnest.list_type_columns.iter().any(|(list, _)| *list == column);
                let outputs = unnest.dependency_indices.iter().map(|column| (!is_list(*column)).then_some(*column));
                moved(rows, &outputs.collect::<Vec<_>>())
            }
            LogicalPlan::Union(union) => {
                let rows: Vec<Rows> = union.inputs.iter().map(|input| self.rows(input)).collect();
                rows.into_iter().reduce(both).unwrap_or(Rows::Together)
            }
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            _ => Rows::Anyhow,
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Rows {
        let rows = self.rows(&aggregate.input);
        let groups = outputs(&aggregate.group_expr, &aggregate.input);
        let found = covers(&rows, &groups.iter().flatten().copied().collect());
        self.demand(found, "the rows of a group", &names(&aggregate.group_expr));
        moved(rows, &groups)
    }

    fn window(&mut self, window: &Window) -> Rows {
        let rows = self.rows(&window.input);
        for expr in &window.window_expr {
            if let Expr::WindowFunction(call) = expr.clone().unalias() {
                let columns = outputs(&call.params.partition_by, &window.input);
                let found = covers(&rows, &columns.into_iter().flatten().collect());
                self.demand(found, "the rows that a window function is over", &names(&call.params.partition_by));
            }
        }
        rows
    }

    fn join(&mut self, join: &Join) -> Rows {
        let (left, right) = (self.rows(&join.left), self.rows(&join.right));
        let on: Vec<(Option<usize>, Option<usize>)> =
            join.on.iter().map(|(left, right)| (column(left, &join.left), column(right, &join.right))).collect();
        let meets = |left: &BTreeSet<usize>, right: &BTreeSet<usize>| {
            let is_in =
                |columns: &BTreeSet<usize>, column: &Option<usize>| column.is_some_and(|it| columns.contains(&it));
            on.iter().any(|pair| is_in(left, &pair.0) && is_in(right, &pair.1))
        };
        let found = match (&left, &right) {
            (Rows::Together, Rows::Together) => true,
            (Rows::By(one, left), Rows::By(other, right)) => {
                one == other
                    && left.len() == right.len()
                    && left.iter().zip(right).all(|(left, right)| meets(left, right))
            }
            _ => false,
        };
        let columns: Vec<Expr> = join.on.iter().map(|(left, _)| left.clone()).collect();
        self.demand(found, "the rows that a join puts together", &names(&columns));
        let width = join.left.schema().fields().len();
        match (join.join_type, left, right) {
            (_, Rows::Together, Rows::Together) => Rows::Together,
            // The columns of the other side can be null.
            (JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark, left, _) => left,
            (JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark, _, right) => right,
            (JoinType::Right, _, right) => shifted(right, width),
            (JoinType::Inner, Rows::By(partitions, left), Rows::By(_, right)) => {
                let right =
                    right.into_iter().map(|columns| columns.into_iter().map(|it| it + width).collect::<BTreeSet<_>>());
                Rows::By(partitions, left.into_iter().zip(right).map(|(left, right)| &left | &right).collect())
            }
            _ => Rows::Anyhow,
        }
    }

    /// Says what is wrong if rows that belong together are not.
    fn demand(&mut self, found: bool, what: &str, columns: &[String]) {
        if found {
            return;
        }
        let spread: Vec<&Spread<'_>> = self.inputs.iter().filter(|input| input.partitions > 1).collect();
        let partitions = spread.iter().map(|input| input.partitions).max().unwrap_or(0);
        let stages: Vec<String> = spread.iter().map(|input| format!("[stages.{}]", input.name)).collect();
        let key = match columns {
            [] => String::new(),
            columns => format!(
                "let them come together by one of these columns: key = [\"{}\"] in {}; or ",
                columns.join("\", \""),
                stages.join(" and ")
            ),
        };
        self.faults.push(Fault {
            message: format!("{what} can be in any of {partitions} partitions, and each of these is read by itself"),
            span: None,
            help: Some(format!("{key}let all come in one: partitions = 1 in {}", stages.join(" and "))),
        });
    }
}

/// Whether rows that are the same in these columns are in the same partition.
fn covers(rows: &Rows, columns: &BTreeSet<usize>) -> bool {
    match rows {
        Rows::Together => true,
        Rows::By(_, parts) => parts.iter().all(|part| !part.is_disjoint(columns)),
        Rows::Anyhow => false,
    }
}

fn known(partitions: u32, parts: Vec<BTreeSet<usize>>) -> Rows {
    if parts.iter().any(BTreeSet::is_empty) { Rows::Anyhow } else { Rows::By(partitions, parts) }
}

/// How rows are spread of which each column is that column of before, or another one.
fn moved(rows: Rows, outputs: &[Option<usize>]) -> Rows {
    let Rows::By(partitions, parts) = rows else { return rows };
    let places = |part: BTreeSet<usize>| {
        let places = outputs.iter().enumerate().filter(|(_, from)| from.is_some_and(|from| part.contains(&from)));
        places.map(|(place, _)| place).collect()
    };
    known(partitions, parts.into_iter().map(places).collect())
}

fn shifted(rows: Rows, by: usize) -> Rows {
    match rows {
        Rows::By(partitions, parts) => {
            let shift = |part: BTreeSet<usize>| part.into_iter().map(|column| column + by).collect();
            Rows::By(partitions, parts.into_iter().map(shift).collect())
        }
        rows => rows,
    }
}

/// How the rows of both are spread.
fn both(one: Rows, other: Rows) -> Rows {
    match (one, other) {
        (Rows::Together, Rows::Together) => Rows::Together,
        (Rows::By(partitions, one), Rows::By(same, other)) if partitions == same && one.len() == other.len() => {
            known(partitions, one.iter().zip(&other).map(|(one, other)| one & other).collect())
        }
        _ => Rows::Anyhow,
    }
}

/// For each expression the column that it passes on unchanged.
fn outputs(exprs: &[Expr], input: &LogicalPlan) -> Vec<Option<usize>> {
    exprs.iter().map(|expr| column(expr, input)).collect()
}

fn column(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    match expr.clone().unalias() {
        Expr::Column(column) => input.schema().maybe_index_of_column(&column),
        // It is only marked.
        Expr::ScalarFunction(call) if windows::is_session_key(&call) => column(call.args.first()?, input),
        _ => None,
    }
}

/// The names of columns that could be a key: not those of windows.
fn names(exprs: &[Expr]) -> Vec<String> {
    let name = |expr: &Expr| match expr.clone().unalias() {
        Expr::Column(column) if !matches!(column.name(), "window_start" | "window_end") => {
            Some(column.name().to_owned())
        }
        _ => None,
    };
    exprs.iter().filter_map(name).collect()
}
