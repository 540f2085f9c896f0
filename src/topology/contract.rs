//! The contract of a stage's results: from its declaration or from its query, and what leans on its columns.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::EventTime;
use crate::bus::Micros;
use crate::config::{self, Column, Fault, LineFormat, Spanned, Sql};
use crate::sql::{self, Engine, Input, Keep, Query};

/// The schema of a stage's results.
#[derive(Debug, Clone)]
pub(super) struct Contract {
    pub schema: SchemaRef,
    /// The columns that tell rows apart that replace one another; the last column says which are deleted then.
    pub identity: Option<Vec<usize>>,
    /// The column with the event time.
    pub time: Option<usize>,
    /// Whether the environment had a say in the names of the columns, so that they must not be shown.
    pub secret: bool,
}

/// Turns declared columns into a schema; `None` if one of them has no type.
pub(super) fn declared(engine: &Engine, columns: &[Column], text: &str, faults: &mut Vec<Fault>) -> Option<SchemaRef> {
    let fields: Vec<Option<Field>> = columns
        .iter()
        .map(|column| match engine.data_type(&column.sql_type.text) {
            Ok((data_type, nullable)) => Some(Field::new(&column.name.value, data_type, nullable)),
            Err(fault) => {
                faults.push(of_sql(&column.sql_type, text, fault));
                None
            }
        })
        .collect();
    let fields: Vec<Field> = fields.into_iter().collect::<Option<_>>()?;
    Some(Arc::new(Schema::new(fields)))
}

/// What the inputs and the text of a query are.
pub(super) struct Planned<'a> {
    pub sql: &'a Sql,
    pub inputs: &'a [(&'a str, Contract)],
    /// The text of the pipeline file.
    pub text: &'a str,
    /// How the stage keeps rows.
    pub keep: Keep,
}

impl Contract {
    /// Rows with these columns that stay as they are.
    pub(super) fn of(schema: SchemaRef, secret: bool) -> Self {
        Self { schema, identity: None, time: None, secret }
    }

    /// What a query knows of such rows under that name.
    fn input<'a>(&self, name: &'a str) -> Input<'a> {
        let columns = self.schema.fields().len() - usize::from(self.identity.is_some());
        let schema = match self.schema.project(&(0..columns).collect::<Vec<_>>()) {
            Ok(schema) => Arc::new(schema),
            Err(_) => Arc::clone(&self.schema),
        };
        Input { name, schema, identity: self.identity.clone(), time: self.time.filter(|time| *time < columns) }
    }
}

impl Planned<'_> {
    /// Whether messages about the query could show what the environment filled in.
    pub(super) fn secret(&self) -> bool {
        self.sql.from_env || self.inputs.iter().any(|(_, input)| input.secret)
    }

    /// Plans the query.
    pub(super) fn plan(&self, engine: &Engine, faults: &mut Vec<Fault>) -> Option<Query> {
        let inputs: Vec<Input<'_>> = self.inputs.iter().map(|(name, input)| input.input(name)).collect();
        let found = match engine.plan_over(&self.sql.text, &inputs, &self.keep) {
            Ok(query) => return Some(query),
            Err(found) => found,
        };
        match self.secret() {
            true => faults.push(concealed(self.sql)),
            false => faults.extend(found.into_iter().map(|fault| of_sql(self.sql, self.text, fault))),
        }
        None
    }

    /// Brings the query under a declared contract, whose faults are shown at the columns that declare it.
    pub(super) fn under(
        &self,
        query: Query,
        contract: &SchemaRef,
        columns: &[Column],
        faults: &mut Vec<Fault>,
    ) -> Option<Query> {
        let found = match query.under_contract(contract) {
            Ok(query) => return Some(query),
            Err(found) => found,
        };
        if self.secret() {
            faults.push(concealed(self.sql));
            return None;
        }
        for fault in found {
            let about = columns.iter().find(|column| fault.message.contains(&format!("`{}`", column.name.value)));
            let place = about.map_or_else(|| self.sql.span.clone(), |column| column.name.span.clone());
            faults.push(Fault::new(place, fault.message).maybe_help(fault.help));
        }
        None
    }
}

/// Notes what is wrong with a query of whose inputs nothing is known.
pub(super) fn syntax(engine: &Engine, sql: &Sql, text: &str, faults: &mut Vec<Fault>) {
    faults.extend(engine.syntax(&sql.text).into_iter().map(|fault| of_sql(sql, text, fault)));
}

/// A fault of an SQL text, at its place in the pipeline file.
pub(super) fn of_sql(sql: &Sql, text: &str, fault: sql::Fault) -> Fault {
    if sql.from_env {
        return concealed(sql);
    }
    let place = fault.span.map_or_else(|| sql.span.clone(), |span| sql.place(text, &span));
    Fault::new(place, fault.message).maybe_help(fault.help)
}

/// A fault whose message could quote what the environment filled in.
fn concealed(sql: &Sql) -> Fault {
    Fault::new(sql.span.clone(), "this does not work with what the environment fills in")
        .help("what is wrong is not shown, since it could show the value; try it with the value written out")
}

/// The index of a column, or a fault where it is named.
pub(super) fn column(contract: &Contract, name: &Spanned<String>, what: &str) -> Result<usize, Fault> {
    contract.schema.index_of(&name.value).map_err(|_| {
        let fault = Fault::new(name.span.clone(), format!("{what} is no column of the results"));
        let hidden = contract.secret || name.from_env;
        let columns: Vec<&str> = contract.schema.fields().iter().map(|field| field.name().as_str()).collect();
        fault.label("unknown column").maybe_help(if hidden { None } else { config::advice(&name.value, columns) })
    })
}

/// The indices of the key's columns.
pub(super) fn key(contract: &Contract, names: &[Spanned<String>], faults: &mut Vec<Fault>) -> Vec<usize> {
    let mut key = Vec::new();
    for name in names {
        match column(contract, name, "the key") {
            Ok(index) if key.contains(&index) => {
                let fault = Fault::new(name.span.clone(), "the key names a column twice");
                faults.push(fault.label("the second time").help("leave out one of them"));
            }
            Ok(index) if is_nested(contract, index) => {
                let fault = Fault::new(name.span.clone(), "the key names a column of lists or structs");
                faults.push(fault.help("a key is made of plain values"));
            }
            Ok(index) => key.push(index),
            Err(fault) => faults.push(fault),
        }
    }
    key
}

/// The index of the event time.
pub(super) fn event_time(
    contract: &Contract,
    event_time: &config::EventTime,
    faults: &mut Vec<Fault>,
) -> Option<EventTime> {
    let name = &event_time.column;
    let index = column(contract, name, "the event time").map_err(|fault| faults.push(fault)).ok()?;
    let is_timestamp = matches!(contract.schema.field(index).data_type(), DataType::Timestamp(..));
    if !is_timestamp {
        let fault = Fault::new(name.span.clone(), "the event time is a column that is no timestamp");
        faults.push(fault.help("give it the type `timestamp`, or name another column"));
    }
    is_timestamp.then(|| EventTime {
        column: index,
        out_of_orderness: Micros::try_from(event_time.out_of_orderness.as_micros()).unwrap_or(Micros::MAX),
        idle_after: event_time.idle_after,
    })
}

/// The schema of the rows that a sink is given, which all its predecessors must agree in.
pub(super) fn merged(
    from: &[Spanned<String>],
    inputs: &[(&str, Contract)],
    faults: &mut Vec<Fault>,
) -> Option<Contract> {
    let ((_, first), others) = inputs.split_first()?;
    let secret = inputs.iter().any(|(_, input)| input.secret);
    let mut agreed: Vec<Field> = first.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut sound = true;
    for ((_, other), name) in others.iter().zip(from.iter().skip(1)) {
        if let Some(difference) = difference(&agreed, &other.schema) {
            sound = false;
            let fault = Fault::new(name.span.clone(), "the predecessors of a sink have different results");
            let help = if secret { "their columns differ".to_owned() } else { difference };
            faults.push(fault.label("not those of the first").help(help));
            continue;
        }
        for (field, theirs) in agreed.iter_mut().zip(other.schema.fields()) {
            field.set_nullable(field.is_nullable() || theirs.is_nullable());
        }
    }
    let identity = first.identity.clone();
    sound.then(|| Contract { identity, ..Contract::of(Arc::new(Schema::new(agreed)), secret) })
}

/// How the columns of the second differ from those of the first.
fn difference(first: &[Field], second: &Schema) -> Option<String> {
    for (index, ours) in first.iter().enumerate() {
        match second.fields().get(index) {
            None => return Some(format!("it has no column `{}`", ours.name())),
            Some(theirs) if theirs.name() != ours.name() => {
                return Some(format!("column {} is `{}` here, and `{}` there", index + 1, theirs.name(), ours.name()));
            }
            Some(theirs) if theirs.data_type() != ours.data_type() => {
                return Some(format!("column `{}` has another type there", ours.name()));
            }
            Some(_) => {}
        }
    }
    let more = second.fields().get(first.len())?;
    Some(format!("it has a column `{}` more", more.name()))
}

/// That every column fits in a field of the format; the place is that of the connector, or of the column if declared.
pub(super) fn fits_lines(
    contract: &Contract,
    format: LineFormat,
    columns: &[Column],
    place: &Range<usize>,
    faults: &mut Vec<Fault>,
) {
    if format != LineFormat::Csv {
        return;
    }
    for index in (0..contract.schema.fields().len()).filter(|index| is_nested(contract, *index)) {
        let place = columns.get(index).map_or_else(|| place.clone(), |column| column.sql_type.span.clone());
        let name = contract.schema.field(index).name();
        let which = if contract.secret { "a column".to_owned() } else { format!("column `{name}`") };
        let fault = Fault::new(place, format!("{which} holds lists or structs, which a CSV field cannot"));
        faults.push(fault.help("use format = \"ndjson\", or make it text"));
    }
}

fn is_nested(contract: &Contract, index: usize) -> bool {
    contract.schema.field(index).data_type().is_nested()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(columns: &[(&str, DataType, bool)]) -> Contract {
        let fields: Vec<Field> =
            columns.iter().map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable)).collect();
        Contract::of(Arc::new(Schema::new(fields)), false)
    }

    fn names(names: &[&str]) -> Vec<Spanned<String>> {
        names.iter().map(|name| Spanned::new((*name).to_owned(), 0..1)).collect()
    }

    #[test]
    fn a_sink_takes_null_where_any_of_its_predecessors_has_it() {
        let (a, b) = (contract(&[("x", DataType::Int64, false)]), contract(&[("x", DataType::Int64, true)]));
        let merged = merged(&names(&["a", "b"]), &[("a", a), ("b", b)], &mut Vec::new()).unwrap();
        assert!(merged.schema.field(0).is_nullable());
    }

    #[test]
    fn predecessors_of_a_sink_that_differ_are_told_apart() {
        let (a, b) = (contract(&[("x", DataType::Int64, false)]), contract(&[("x", DataType::Utf8, true)]));
        let mut faults = Vec::new();
        assert!(merged(&names(&["a", "b"]), &[("a", a), ("b", b)], &mut faults).is_none());
        assert_eq!(faults.first().unwrap().help.as_deref(), Some("column `x` has another type there"));
    }

    #[test]
    fn a_column_that_the_environment_named_is_not_proposed() {
        let secret = Contract { secret: true, ..contract(&[("hush", DataType::Utf8, true)]) };
        let [name] = names(&["hash"]).try_into().unwrap();
        assert_eq!(column(&secret, &name, "the key").unwrap_err().help, None);
    }
}
