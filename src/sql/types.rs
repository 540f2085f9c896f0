//! SQL types to Arrow types. What they are used for is not known here.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::execution::session_state::SessionState;
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, ColumnDef, ColumnOption, ColumnOptionDef, DataType as SqlType, ExactNumberInfo, Ident,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::Fault;
use super::catalog::Catalog;
use super::fault;
use super::parse::{self, DIALECT};

/// What is offered for a type that does not exist.
const NAMES: &[&str] = &[
    "bigint",
    "boolean",
    "bytea",
    "char",
    "date",
    "decimal",
    "double",
    "float",
    "int",
    "integer",
    "interval",
    "numeric",
    "real",
    "smallint",
    "string",
    "struct",
    "text",
    "time",
    "timestamp",
    "tinyint",
    "varchar",
];

/// How SQL is read wherever it is read.
pub(super) fn parser_options() -> ParserOptions {
    ParserOptions::new().with_map_string_types_to_utf8view(false).with_collect_spans(true)
}

pub(super) fn parse(state: &SessionState, text: &str) -> Result<(DataType, bool), Fault> {
    let (sql_type, nullable) = read(text).map_err(|error| parse::fault(&error, text))?;
    if let Some(fault) = length(&sql_type) {
        return Err(fault);
    }
    let catalog = Catalog::new(state, &[]);
    let option = if nullable { ColumnOption::Null } else { ColumnOption::NotNull };
    let column = ColumnDef {
        name: Ident::new("column"),
        data_type: sql_type.clone(),
        options: vec![ColumnOptionDef { name: None, option }],
    };
    match SqlToRel::new_with_options(&catalog, parser_options()).build_schema(vec![column]) {
        Ok(schema) => schema.fields().first().map(|field| (field.data_type().clone(), field.is_nullable())),
        Err(error) if !is_unknown(&sql_type) => return Err(fault::of_whole(&error)),
        Err(_) => None,
    }
    .ok_or_else(|| unknown(text))
}

fn read(text: &str) -> Result<(SqlType, bool), ParserError> {
    let mut parser = Parser::new(&DIALECT).try_with_sql(text)?;
    let sql_type = parser.parse_data_type()?;
    let nullable = parser.parse_keyword(Keyword::NULL) || !parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]);
    match parser.peek_token() {
        end if end.token == Token::EOF => Ok((sql_type, nullable)),
        other => parser.expected("`not null` or the end of the type", other),
    }
}

/// The fault of a type with a length, which nothing would enforce, also where it is a part of another type.
pub(super) fn length(sql_type: &SqlType) -> Option<Fault> {
    let (instead, has_length) = match sql_type {
        SqlType::Character(length)
        | SqlType::Char(length)
        | SqlType::CharacterVarying(length)
        | SqlType::CharVarying(length)
        | SqlType::Varchar(length)
        | SqlType::Nvarchar(length) => ("text", length.is_some()),
        SqlType::CharacterLargeObject(length)
        | SqlType::CharLargeObject(length)
        | SqlType::Clob(length)
        | SqlType::String(length) => ("text", length.is_some()),
        SqlType::TinyInt(length) => ("tinyint", length.is_some()),
        SqlType::SmallInt(length) | SqlType::Int2(length) => ("smallint", length.is_some()),
        SqlType::Int(length) | SqlType::Integer(length) | SqlType::Int4(length) => ("int", length.is_some()),
        SqlType::BigInt(length) | SqlType::Int8(length) => ("bigint", length.is_some()),
        SqlType::TinyIntUnsigned(length) => ("tinyint unsigned", length.is_some()),
        SqlType::SmallIntUnsigned(length) | SqlType::Int2Unsigned(length) => ("smallint unsigned", length.is_some()),
        SqlType::IntUnsigned(length) | SqlType::IntegerUnsigned(length) | SqlType::Int4Unsigned(length) => {
            ("int unsigned", length.is_some())
        }
        SqlType::BigIntUnsigned(length) | SqlType::Int8Unsigned(length) => ("bigint unsigned", length.is_some()),
        SqlType::Float(precision) => ("real` or `double", *precision != ExactNumberInfo::None),
        SqlType::Array(ArrayElemTypeDef::SquareBracket(_, Some(_))) => {
            return Some(Fault {
                message: format!("the length in `{sql_type}` is not enforced"),
                span: None,
                help: Some("write [] without a length; a list has no limit".into()),
            });
        }
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(item)
            | ArrayElemTypeDef::SquareBracket(item, None)
            | ArrayElemTypeDef::Parenthesis(item),
        ) => return length(item),
        SqlType::Struct(fields, _) => return fields.iter().find_map(|field| length(&field.field_type)),
        _ => return None,
    };
    has_length.then(|| Fault {
        message: format!("the length in `{}` is not enforced", sql_type.to_string().to_lowercase()),
        span: None,
        help: Some(match instead {
            "text" => "write `text`, which has no limit; check a length with length(…) in a query".into(),
            _ => format!("write `{instead}`"),
        }),
    })
}

/// Whether it is the name that DataFusion does not know, and not a part of a type whose name it does.
fn is_unknown(sql_type: &SqlType) -> bool {
    !matches!(
        sql_type,
        SqlType::Struct(..)
            | SqlType::Array(_)
            | SqlType::Timestamp(..)
            | SqlType::Time(..)
            | SqlType::Interval { .. }
            | SqlType::Decimal(_)
            | SqlType::Numeric(_)
            | SqlType::Double(_)
    )
}

fn unknown(text: &str) -> Fault {
    let name: String = text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let start = text.len() - text.trim_start().len();
    Fault {
        message: format!("there is no type `{name}`"),
        span: Some(start..start + name.len()),
        help: match fault::nearest(&name.to_lowercase(), NAMES.iter().copied()) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => Some(format!("types are, for example, {}", NAMES.join(", "))),
        },
    }
}

/// How a person would write the type in SQL; Arrow's own name where SQL has none.
pub(crate) fn name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::UInt8 => "tinyint unsigned".into(),
        DataType::UInt16 => "smallint unsigned".into(),
        DataType::UInt32 => "int unsigned".into(),
        DataType::UInt64 => "bigint unsigned".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "text".into(),
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => "bytea".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Second, _) => "timestamp(0)".into(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => "timestamp(3)".into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "timestamp(6)".into(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => "timestamp".into(),
        DataType::Time64(TimeUnit::Nanosecond) => "time".into(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision}, {scale})")
        }
        DataType::List(item) | DataType::LargeList(item) => format!("{}[]", name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{} {}", f.name(), name(f.data_type()))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        other => other.to_string(),
    }
}
