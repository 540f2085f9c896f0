//! Joins: what is said of a row by itself, of a pair, and until when a row can have a partner.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan};

use super::super::branches::{arrow_schema, cannot_fail};
use super::{Builder, Built, Feed, Parts, Result, bounds, column, keeps, whole};
use crate::operator::{JoinKind, JoinPlan, Side, Sides, To, Work};

/// So many ways to tell rows apart are followed.
const MOST: usize = 16;

impl Builder<'_> {
    /// A join, and what must hold for its results besides.
    pub(super) fn join(&mut self, join: &Join, conditions: Vec<Expr>) -> Result<Built> {
        let has_refs =
            |expr: &Expr, plan: &LogicalPlan| expr.column_refs().iter().all(|column| plan.schema().has_column(column));
        // What can be said of a row by itself is said before it is kept.
        let (mut left, mut right) = (LogicalPlan::clone(&join.left), LogicalPlan::clone(&join.right));
        let (mut of_pairs, mut above) = (Vec::new(), Vec::new());
        for condition in conditions {
            let physical = self.planner.physical(&condition, &join.schema)?;
            let goes = |plan: LogicalPlan| Filter::try_new(condition.clone(), Arc::new(plan)).map(LogicalPlan::Filter);
            match (has_refs(&condition, &left), has_refs(&condition, &right), cannot_fail(&physical)) {
                (false, false, _) => of_pairs.push(condition),
                (_, _, false) => above.push(condition),
                (true, _, true) => left = goes(left).map_err(whole)?,
                (_, true, true) => right = goes(right).map_err(whole)?,
            }
        }
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Pairs(Sides(false, false)),
            JoinType::Left => JoinKind::Pairs(Sides(true, false)),
            JoinType::Right => JoinKind::Pairs(Sides(false, true)),
            JoinType::Full => JoinKind::Pairs(Sides(true, true)),
            JoinType::LeftSemi => JoinKind::Semi,
            JoinType::LeftAnti if !join.null_aware => JoinKind::Anti,
            other => {
                return Err(self.wrong(
                    &["IN", "EXISTS"],
                    &format!("this cannot be kept up to date: a {other} join"),
                    "write it as a join, or with NOT EXISTS",
                ));
            }
        };
        let built = Sides(self.build(&left)?, self.build(&right)?);
        let schemas: Sides<&DFSchema> = Sides(left.schema(), right.schema());
        let filters = join.filter.iter().flat_map(split_conjunction).cloned();
        let filters: Vec<Expr> = filters.chain(of_pairs).collect();
        let found = bounds::of(&filters, &join.on, schemas, Sides(&built.0.times, &built.1.times));
        if found.iter().any(Option::is_none) && self.keep.ttl.is_none() {
            let fault = self.wrong(
                &["JOIN", "EXISTS", "IN", "EXCEPT", "INTERSECT"],
                "rows of this join would be kept for ever: nothing says until when their partners can come",
                "bound it in event time, ON … AND a.time BETWEEN b.time - INTERVAL '1 hour' AND b.time; or say how long rows are \
                 kept: state_ttl = \"1d\" in the stage",
            );
            self.faults.push(fault);
        }
        let (left_on, right_on): (Vec<Expr>, Vec<Expr>) = join.on.iter().cloned().unzip();
        let of_sides = [(left_on, found.0, schemas.0, &built.0), (right_on, found.1, schemas.1, &built.1)];
        let sides = of_sides.map(|(on, until, schema, built)| -> Result<Side> {
            Ok(Side {
                schema: self.schema(built.from),
                on: on.iter().map(|expr| self.planner.physical(expr, schema)).collect::<Result<_>>()?,
                until: until.map(|until| self.planner.physical(&until, schema)).transpose()?,
                time: built.times.first().copied(),
                changes: built.changes,
            })
        });
        let [first, second] = sides;
        let sides = Sides(first?, second?);
        let both = schemas.0.join(schemas.1).map_err(whole)?;
        let filter = conjunction(filters).map(|filter| self.planner.physical(&filter, &both)).transpose()?;
        let stay = sides.iter().all(|side| !side.changes);
        let waits = |side: usize| sides.of(side).until.is_some() && stay;
        let stays = stay
            && match kind {
                JoinKind::Pairs(lonely) => (0..2).all(|side| !lonely.of(side) || waits(side)),
                JoinKind::Semi => true,
                JoinKind::Anti => waits(0),
            };
        let bounded = Sides(sides.0.until.is_some(), sides.1.until.is_some());
        let width = sides.0.schema.fields().len();
        let shifted = |parts: &Parts| -> Parts {
            parts.iter().map(|part| part.iter().map(|column| column + width).collect()).collect()
        };
        let identities: Vec<Parts> = match kind {
            JoinKind::Semi | JoinKind::Anti => built.0.identities.clone(),
            JoinKind::Pairs(_) => {
                let pairs = built
                    .0
                    .identities
                    .iter()
                    .flat_map(|left| built.1.identities.iter().map(move |right| (left, right)));
                pairs.map(|(left, right)| left.iter().cloned().chain(shifted(right)).collect()).take(MOST).collect()
            }
        };
        // What has to be the same on both sides is the same.
        let equal: Vec<(usize, usize)> = match kind {
            JoinKind::Pairs(Sides(false, false)) => {
                let pair =
                    |(left, right): &(Expr, Expr)| Some((column(left, schemas.0)?, column(right, schemas.1)? + width));
                join.on.iter().filter_map(pair).collect()
            }
            _ => Vec::new(),
        };
        let widened = |mut part: BTreeSet<usize>| {
            for (left, right) in &equal {
                if part.contains(left) || part.contains(right) {
                    part.extend([*left, *right]);
                }
            }
            part
        };
        let identities = identities.into_iter().map(|parts| parts.into_iter().map(widened).collect()).collect();
        let of_first = built.0.times.iter().copied();
        let times: BTreeSet<usize> = match kind {
            JoinKind::Pairs(_) => of_first.chain(built.1.times.iter().map(|time| time + width)).collect(),
            JoinKind::Semi | JoinKind::Anti => of_first.collect(),
        };
        // Rows that have no partner are nothing at that time of the other side.
        let times = match kind {
            JoinKind::Pairs(Sides(true, false)) => times.into_iter().filter(|time| *time < width).collect(),
            JoinKind::Pairs(Sides(false, true)) => times.into_iter().filter(|time| *time >= width).collect(),
            JoinKind::Pairs(Sides(true, true)) => BTreeSet::new(),
            _ => times,
        };
        let texts = [&left, &right].map(|plan| plan.display_indent().to_string());
        let keeps =
            texts.iter().zip(sides.iter()).map(|(text, side)| keeps("rows of a join", &side.schema, text)).collect();
        let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
        let schema = arrow_schema(&join.schema);
        let work = Work::Join(Box::new(JoinPlan { kind, sides, null_equals_null, filter }));
        let number = self.node(work, schema, keeps);
        for (side, built) in built.iter().enumerate() {
            self.link(built.from, To::Node(number, side));
            if let Feed::Source(source) = built.from
                && let Some(source) = self.sources.get_mut(source)
            {
                source.can_be_late = *bounded.of(1 - side);
            }
        }
        let times = if stays { times } else { BTreeSet::new() };
        let built = Built { from: Feed::Node(number), changes: !stays, identities, times };
        match conjunction(above) {
            None => Ok(built),
            Some(condition) => {
                let filter = Filter::try_new(condition, Arc::new(LogicalPlan::Join(join.clone()))).map_err(whole)?;
                let steps = self.planner.filter(&filter)?;
                Ok(self.then(built, steps, arrow_schema(&join.schema)))
            }
        }
    }
}
