//! JSON rows to columns: first the place of every value, row by row, then the values, column by column.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, ListArray, StructArray, new_null_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::filter;
use arrow::datatypes::{DataType, FieldRef, Fields, SchemaRef};
use arrow::error::ArrowError;

use super::Unsupported;
use super::scan::{Scanner, Span, Unexpected, unescape};
use crate::codec::rejects::Rejects;
use crate::codec::value::{self, Cell};
use crate::codec::{self, Decoded, RawRows};
use crate::failure::Class;

/// Decodes rows that are JSON objects.
pub struct Decoder {
    schema: SchemaRef,
    columns: Columns,
    /// Kept from one call to the next for its memory.
    spans: Vec<Vec<Span>>,
}

impl Decoder {
    /// For rows of that schema.
    pub fn new(schema: SchemaRef) -> Result<Self, Unsupported> {
        let columns = Columns::new(schema.fields())?;
        Ok(Self { schema, columns, spans: Vec::new() })
    }
}

impl codec::Decoder for Decoder {
    fn decode(&mut self, raw: &RawRows) -> Decoded {
        let mut rejects = Rejects::default();
        let text = rejects.text(raw);
        let objects: Vec<Span> = raw.rows.iter().map(|row| Span { start: row.start, end: row.end }).collect();
        let mut context = Context { text: &text, owners: None, rejects: &mut rejects };
        self.columns.spans(&objects, &mut context, &mut self.spans);
        let arrays = self.columns.arrays(&self.spans, &mut context, "");
        rejects.finish(&self.schema, arrays, raw.len())
    }
}

struct Context<'a> {
    text: &'a str,
    /// The row that each value belongs to; `None` if value by value the row of that number.
    owners: Option<&'a [usize]>,
    rejects: &'a mut Rejects,
}

impl Context<'_> {
    fn reject(&mut self, at: usize, class: Class, message: String) {
        self.rejects.add(self.row(at), class, message);
    }

    fn row(&self, at: usize) -> usize {
        self.owners.and_then(|owners| owners.get(at).copied()).unwrap_or(at)
    }
}

/// The fields of a row or of a struct, by name.
struct Columns {
    fields: Fields,
    children: Vec<Values>,
    /// Their names as they stand in a row that escapes nothing.
    quoted: Vec<String>,
    /// Where there are too many for looking at each.
    index: Option<HashMap<Box<[u8]>, usize>>,
}

/// How the values of a column are made.
enum Values {
    Scalar,
    Struct(Columns),
    List(FieldRef, Box<Values>),
}

impl Values {
    fn new(field: &FieldRef) -> Result<Self, Unsupported> {
        match field.data_type() {
            DataType::Struct(fields) => Ok(Values::Struct(Columns::new(fields)?)),
            DataType::List(item) => Ok(Values::List(Arc::clone(item), Box::new(Values::new(item)?))),
            scalar if value::is_readable(scalar) => Ok(Values::Scalar),
            other => Err(Unsupported { column: field.name().clone(), data_type: other.clone() }),
        }
    }
}

impl Columns {
    fn new(fields: &Fields) -> Result<Self, Unsupported> {
        let children = fields.iter().map(Values::new).collect::<Result<_, _>>()?;
        let by_name =
            || fields.iter().enumerate().map(|(index, field)| (field.name().as_bytes().into(), index)).collect();
        let index = (fields.len() > 16).then(by_name);
        let quoted = fields.iter().map(|field| serde_json::to_string(field.name()).unwrap_or_default()).collect();
        Ok(Self { fields: fields.clone(), children, quoted, index })
    }

    /// The number of the field of that name.
    fn find(&self, name: &[u8]) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(name).copied(),
            None => self.fields.iter().position(|field| field.name().as_bytes() == name),
        }
    }

    /// For each field the places of its values in the objects. An object that is none is rejected and has no values.
    fn spans(&self, objects: &[Span], context: &mut Context<'_>, spans: &mut Vec<Vec<Span>>) {
        spans.resize_with(self.fields.len(), Vec::new);
        for column in spans.iter_mut() {
            column.clear();
            column.resize(objects.len(), Span::default());
        }
        for (at, object) in objects.iter().enumerate() {
            let Err(error) = self.scan(at, *object, context.text.as_bytes(), spans) else { continue };
            for column in spans.iter_mut() {
                column.get_mut(at).map(std::mem::take);
            }
            let message = described(&error, *object, context.text);
            context.reject(at, Class::Decode, message);
        }
    }

    fn scan(&self, at: usize, object: Span, bytes: &[u8], spans: &mut [Vec<Span>]) -> Result<(), Unexpected> {
        let bytes = bytes.get(..object.end as usize).unwrap_or_default();
        let mut scanner = Scanner::new(bytes, object.start as usize);
        // Most rows have their members in the order of the schema.
        let mut guess = 0;
        let mut more = scanner.enter(b'{', b'}')?;
        while more {
            let field = match self.quoted.get(guess) {
                Some(quoted) if scanner.is_named(quoted.as_bytes())? => Some(guess),
                _ => match scanner.name()? {
                    name if name.contains(&b'\\') => self.find(unescape(&String::from_utf8_lossy(name)).as_bytes()),
                    name => self.find(name),
                },
            };
            let value = scanner.value()?;
            if let Some(field) = field {
                guess = field + 1;
                if let Some(span) = spans.get_mut(field).and_then(|column| column.get_mut(at)) {
                    *span = value;
                }
            }
            more = scanner.another(b'}')?;
        }
        scanner.end()
    }

    fn arrays(&self, spans: &[Vec<Span>], context: &mut Context<'_>, path: &str) -> Vec<ArrayRef> {
        let columns = self.fields.iter().zip(&self.children).zip(spans);
        let mut array = |((field, values), spans): ((&FieldRef, &Values), &Vec<Span>)| {
            array(field, values, spans, context, &format!("{path}{}", field.name()))
        };
        columns.map(&mut array).collect()
    }
}

/// The column of values at those places. What is not of its type, or null where it must not be, is rejected.
fn array(field: &FieldRef, values: &Values, spans: &[Span], context: &mut Context<'_>, name: &str) -> ArrayRef {
    let array = match values {
        Values::Scalar => scalars(field.data_type(), spans, context, name),
        Values::Struct(columns) => structs(columns, spans, context, name),
        Values::List(item, values) => lists(item, values, spans, context, name),
    };
    if !field.is_nullable() && array.null_count() > 0 {
        let empty = |at: &usize| array.is_null(*at);
        for at in (0..array.len()).filter(empty) {
            let is_missing = spans.get(at).is_none_or(|span| span.is_empty());
            let problem = if is_missing { "is missing" } else { "must not be null" };
            context.reject(at, Class::Contract, format!("column `{name}` {problem}"));
        }
    }
    array
}

fn scalars(data_type: &DataType, spans: &[Span], context: &mut Context<'_>, name: &str) -> ArrayRef {
    let text = context.text;
    let accepts = Accepts::of(data_type);
    let cell = |at: usize| spans.get(at).map_or(Cell::Null, |span| accepts.cell(slice(text, *span)));
    let mut faults = Vec::new();
    let array = value::column(data_type, spans.len(), cell, &mut faults);
    for fault in faults {
        context.reject(fault.at, Class::Contract, format!("column `{name}`: {}", fault.message));
    }
    array
}

fn structs(columns: &Columns, spans: &[Span], context: &mut Context<'_>, name: &str) -> ArrayRef {
    let mut present = opened(spans, b'{', context, name);
    let mut fields = vec![vec![Span::default(); spans.len()]; columns.fields.len()];
    for (at, (object, _)) in spans.iter().zip(&present).enumerate().filter(|(_, (_, is_object))| **is_object) {
        // It was scanned before, as a part of its row.
        let _ = columns.scan(at, *object, context.text.as_bytes(), &mut fields);
    }
    let mut rejects = Rejects::default();
    let mut within = Context { text: context.text, owners: None, rejects: &mut rejects };
    let arrays = columns.arrays(&fields, &mut within, &format!("{name}."));
    for (at, (class, message)) in rejects.0 {
        // Where there is no struct, none of its fields is missing.
        if let Some(present) = present.get_mut(at).filter(|present| **present) {
            *present = false;
            context.reject(at, class, message);
        }
    }
    let nulls = NullBuffer::from(present);
    match StructArray::try_new_with_length(columns.fields.clone(), arrays, Some(nulls), spans.len()) {
        Ok(array) => Arc::new(array),
        Err(error) => nothing(&DataType::Struct(columns.fields.clone()), spans, context, &error),
    }
}

fn lists(item: &FieldRef, values: &Values, spans: &[Span], context: &mut Context<'_>, name: &str) -> ArrayRef {
    let present = opened(spans, b'[', context, name);
    let (mut elements, mut owners, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (span, _)) in spans.iter().zip(&present).enumerate().filter(|(_, (_, is_list))| **is_list) {
        let bytes = context.text.as_bytes().get(..span.end as usize).unwrap_or_default();
        // It was scanned before, as a part of its row.
        let _ = scan_list(Scanner::new(bytes, span.start as usize), &mut elements);
        owners.resize(elements.len(), context.row(at));
        lists.resize(elements.len(), at);
    }
    let mut within = Context { text: context.text, owners: Some(&owners), rejects: context.rejects };
    let mut array = array(item, values, &elements, &mut within, &format!("{name}[]"));
    if !item.is_nullable() && array.null_count() > 0 {
        // Their rows are rejected; what is left of the lists has to be an array nonetheless.
        let valid = BooleanArray::from_iter((0..array.len()).map(|at| Some(array.is_valid(at))));
        lists = valid.values().set_indices().filter_map(|at| lists.get(at).copied()).collect();
        array = filter(&array, &valid).unwrap_or(array);
    }
    let mut lengths = vec![0; spans.len()];
    for at in lists {
        lengths.get_mut(at).into_iter().for_each(|length| *length += 1);
    }
    let offsets = OffsetBuffer::from_lengths(lengths);
    match ListArray::try_new(Arc::clone(item), offsets, array, Some(NullBuffer::from(present))) {
        Ok(array) => Arc::new(array),
        Err(error) => nothing(&DataType::List(Arc::clone(item)), spans, context, &error),
    }
}

fn scan_list(mut list: Scanner<'_>, elements: &mut Vec<Span>) -> Result<(), Unexpected> {
    let mut more = list.enter(b'[', b']')?;
    while more {
        elements.push(list.value()?);
        more = list.another(b']')?;
    }
    Ok(())
}

/// What is made of a column that Arrow refuses as a whole: all rows are rejected.
fn nothing(data_type: &DataType, spans: &[Span], context: &mut Context<'_>, error: &ArrowError) -> ArrayRef {
    (0..spans.len()).for_each(|at| context.reject(at, Class::Contract, error.to_string()));
    new_null_array(data_type, spans.len())
}

/// Which of the values start with that byte; those that do not, and are not null either, are rejected.
fn opened(spans: &[Span], open: u8, context: &mut Context<'_>, name: &str) -> Vec<bool> {
    let what = if open == b'{' { "an object" } else { "a list" };
    let mut is_open = |(at, span): (usize, &Span)| {
        let value = slice(context.text, *span);
        let is_open = value.as_bytes().first() == Some(&open);
        if !is_open && !value.is_empty() && value != "null" {
            context.reject(at, Class::Contract, format!("column `{name}` is not {what}"));
        }
        is_open
    };
    spans.iter().enumerate().map(&mut is_open).collect()
}

fn slice(text: &str, span: Span) -> &str {
    text.get(span.start as usize..span.end as usize).unwrap_or_default()
}

/// Which kinds of JSON values can be values of a type.
#[derive(Clone, Copy)]
enum Accepts {
    /// Strings, and objects and lists as the text they are.
    Text,
    /// Numbers, and strings that hold one.
    Number,
    /// `true` and `false`.
    Boolean,
    /// Strings.
    String,
}

impl Accepts {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Accepts::Text,
            DataType::Boolean => Accepts::Boolean,
            number if number.is_numeric() => Accepts::Number,
            _ => Accepts::String,
        }
    }

    #[inline]
    fn cell(self, value: &str) -> Cell<'_> {
        let [first, ..] = value.as_bytes() else { return Cell::Null };
        match (self, first) {
            (_, b'n') => Cell::Null,
            (Accepts::Text | Accepts::Number | Accepts::String, b'"') => Cell::Text(string(value)),
            (Accepts::Text, b'{' | b'[') => Cell::Text(Cow::Borrowed(value)),
            (Accepts::Number, b'-' | b'0'..=b'9') => Cell::Text(Cow::Borrowed(value)),
            (Accepts::Boolean, b't' | b'f') => Cell::Text(Cow::Borrowed(value)),
            _ => Cell::Wrong(Cow::Borrowed(value)),
        }
    }
}

fn string(quoted: &str) -> Cow<'_, str> {
    let text = quoted.get(1..quoted.len() - 1).unwrap_or_default();
    match memchr::memchr(b'\\', text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(unescape(text)),
    }
}

fn described(error: &Unexpected, object: Span, text: &str) -> String {
    let found = text.get(error.at..object.end as usize).and_then(|rest| rest.chars().next());
    let at = error.at.saturating_sub(object.start as usize);
    match found {
        Some(found) => format!("expected {} at byte {at}, found `{}`", error.expected, found.escape_default()),
        None => format!("expected {} at byte {at}, found the end", error.expected),
    }
}
