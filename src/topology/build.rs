//! From the stages of a file to stages in their places.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::contract::{self, Contract, Planned};
use super::examples::Known;
use super::graph::{self, Order};
use super::partitions::{self, Counts, Place, TooFew};
use super::{Stage, Topology, Work, files, others, topics, windows};
use crate::bus::{Channel, Micros, Topic};
use crate::config::{self, Fault, Hole, Holes, Pipeline, Retention, Spanned, quoted};
use crate::connector;
use crate::fidelity::Objective;
use crate::operator::Also;
use crate::sql::{Engine, Keep, Query, Spread};

/// The longest name that a topic can have on the buses there are.
const MAX_TOPIC_NAME: usize = 249;

/// Bytes of memory that what a task keeps may take where the stage does not say it.
const STATE_LIMIT: usize = 1_000_000_000;

/// Puts the stages of a pipeline together; `holes` says what of them is not known.
pub(super) fn build(pipeline: &Pipeline, holes: &Holes, engine: &Engine) -> Result<Topology, Vec<Fault>> {
    let mut builder = Builder {
        pipeline,
        holes,
        engine,
        feeders: Vec::new(),
        contracts: vec![None; pipeline.stages.len()],
        times: vec![None; pipeline.stages.len()],
        counts: vec![Counts { tasks: 1, partitions: 1 }; pipeline.stages.len()],
        faults: Vec::new(),
    };
    builder.check_presence();
    builder.check_names();
    builder.link();
    let Order { sorted, circles } = graph::order(&builder.feeders);
    builder.refuse_circles(&circles);
    let unordered = (0..builder.feeders.len()).filter(|index| !sorted.contains(index));
    let stages: Vec<Option<Stage>> =
        sorted.iter().copied().chain(unordered).map(|index| builder.stage(index)).collect();
    let tasks: Vec<u32> = builder.counts.iter().map(|counts| counts.tasks).collect();
    files::check(pipeline, holes, &tasks, &mut builder.faults);
    others::check(pipeline, holes, &mut builder.faults);
    let Builder { feeders, contracts, mut faults, .. } = builder;
    Known { pipeline, holes, feeders: &feeders, contracts: &contracts }.check(&mut faults);

    match stages.into_iter().collect::<Option<Vec<Stage>>>() {
        Some(stages) if faults.is_empty() => {
            let stages = heard(stages).into_iter().map(Arc::new).collect();
            Ok(Topology { prefix: prefix(pipeline).into(), stages })
        }
        _ => Err(config::tidy(&pipeline.text, faults)),
    }
}

/// The stages, of which those know it that say how far they are, and those whose rows are not all history.
fn heard(mut stages: Vec<Stage>) -> Vec<Stage> {
    let mut timed: HashSet<Arc<str>> = HashSet::new();
    for stage in &stages {
        if stage.event_time.is_some() || stage.from.iter().any(|from| timed.contains(from)) {
            timed.insert(stage.name.clone());
        }
    }
    let mut live: HashSet<Arc<str>> = HashSet::new();
    for stage in &mut stages {
        let comes_in = matches!(&stage.work, Work::Source(source) if source.is_live());
        stage.is_live = comes_in || stage.from.iter().any(|from| live.contains(from));
        if stage.is_live {
            live.insert(stage.name.clone());
        }
    }
    let mut awaited: HashSet<Arc<str>> = HashSet::new();
    for stage in stages.iter_mut().rev() {
        let is_awaited = awaited.contains(&stage.name);
        stage.is_heard = is_awaited || timed.contains(&stage.name);
        if is_awaited || stage.has_state() {
            awaited.extend(stage.from.iter().cloned());
        }
    }
    stages
}

/// The column in which the event times of the inputs are that have one, if it is one; those of windows have times of their own.
fn inherited(work: &Work, times_of_inputs: &[Option<usize>]) -> Option<usize> {
    let mut columns = times_of_inputs.iter().enumerate().filter_map(|(input, time)| Some((input, (*time)?)));
    let carried = |(input, time): (usize, usize)| match work {
        Work::Sql(query) => query.carries(input, time),
        Work::Source(_) | Work::Sink(_) => Some(time),
    };
    match work {
        Work::Sql(query) if query.is_windowed() => query.window(),
        Work::Sql(query) if query.has_state() => query.time(),
        _ => {
            let first = carried(columns.next()?)?;
            columns.all(|column| carried(column) == Some(first)).then_some(first)
        }
    }
}

fn prefix(pipeline: &Pipeline) -> String {
    format!("{}.{}", pipeline.company.value, pipeline.namespace.value)
}

/// What is known so far. All lists are in the order of the file.
struct Builder<'a> {
    pipeline: &'a Pipeline,
    holes: &'a Holes,
    engine: &'a Engine,
    feeders: Vec<Vec<usize>>,
    contracts: Vec<Option<Contract>>,
    /// The columns with event times.
    times: Vec<Option<usize>>,
    counts: Vec<Counts>,
    faults: Vec<Fault>,
}

impl<'a> Builder<'a> {
    /// That there are stages, and that rows come in.
    fn check_presence(&mut self) {
        if self.holes.values().any(|hole| hole.work) {
            return;
        }
        let stages = &self.pipeline.stages;
        if stages.is_empty() {
            let help = "add a source, a stage and a sink: [stages.NAME]";
            self.faults.push(Fault::new(0..0, "a pipeline has at least one stage, and this has none").help(help));
        } else if !stages.iter().any(|stage| matches!(stage.work, config::Work::Source(_))) {
            let place = stages.first().map_or(0..0, |stage| stage.name.span.clone());
            let fault = Fault::new(place, "no stage of this pipeline is a source, so no rows would come in");
            self.faults.push(fault.help("add one: source = { kind = \"file\", path = \"…\" }"));
        }
    }

    /// That no topic's name is too long.
    fn check_names(&mut self) {
        let prefix = prefix(self.pipeline);
        for stage in &self.pipeline.stages {
            let longest = Topic::of(&format!("{prefix}.{}", stage.name.value), Channel::Checkpoint);
            let length = longest.as_str().len();
            if length > MAX_TOPIC_NAME {
                let message = format!("topics of this stage would have names of up to {length} characters");
                let fault = Fault::new(stage.name.span.clone(), message);
                self.faults
                    .push(fault.help(format!(
                        "{MAX_TOPIC_NAME} is the most: shorten the company, the namespace or the stage"
                    )));
            }
        }
    }

    /// Finds the predecessors of all stages.
    fn link(&mut self) {
        let names: Vec<&str> = self.pipeline.stages.iter().map(|stage| stage.name.value.as_str()).collect();
        for (index, stage) in self.pipeline.stages.iter().enumerate() {
            let mut feeders = Vec::new();
            for name in &stage.from {
                match names.iter().position(|known| *known == name.value) {
                    Some(feeder) if feeder == index => {
                        let fault = Fault::new(name.span.clone(), format!("stage `{}` feeds itself", stage.name.value));
                        self.faults.push(fault.help("name the stages before it"));
                    }
                    Some(feeder) => feeders.extend(self.with_results(feeder, name)),
                    None => self.faults.push(self.unknown(name, index)),
                }
            }
            self.feeders.push(feeders);
        }
    }

    /// The stage if it has results to feed others with.
    fn with_results(&mut self, feeder: usize, name: &Spanned<String>) -> Option<usize> {
        let is_sink = matches!(self.pipeline.stages.get(feeder)?.work, config::Work::Sink(_));
        if is_sink {
            let fault = Fault::new(name.span.clone(), format!("{} is a sink and has no results", quoted(name)));
            self.faults.push(fault.help("name the stage that feeds the sink"));
        }
        (!is_sink).then_some(feeder)
    }

    fn unknown(&self, name: &Spanned<String>, asking: usize) -> Fault {
        let has_results = |stage: &config::Stage| !matches!(stage.work, config::Work::Sink(_));
        let others = self.pipeline.stages.iter().enumerate();
        let others = others.filter(|(index, stage)| *index != asking && has_results(stage));
        let names: Vec<&str> = others.map(|(_, stage)| stage.name.value.as_str()).collect();
        let fault = Fault::new(name.span.clone(), format!("there is no stage {}", quoted(name)));
        fault.label("unknown stage").maybe_help(if name.from_env { None } else { config::advice(&name.value, names) })
    }

    fn refuse_circles(&mut self, circles: &[Vec<usize>]) {
        for circle in circles {
            let stages: Vec<&config::Stage> =
                circle.iter().filter_map(|stage| self.pipeline.stages.get(*stage)).collect();
            let (Some(first), Some(last)) = (stages.first(), stages.last()) else { continue };
            let place = first.from.iter().find(|from| from.value == last.name.value);
            let place = place.map_or_else(|| first.name.span.clone(), |from| from.span.clone());
            let way =
                stages.iter().chain([first]).map(|stage| stage.name.value.as_str()).collect::<Vec<_>>().join(" → ");
            let fault = Fault::new(place, format!("rows would go round in a circle: {way}"));
            self.faults.push(fault.label("closes the circle").help("a stage can only be fed by stages before it"));
        }
    }

    /// The predecessors with their contracts, if all are known.
    fn inputs(&self, index: usize, stage: &'a config::Stage) -> Option<Vec<(&'a str, Contract)>> {
        let feeders = self.feeders.get(index)?;
        if self.hole(stage).from || feeders.len() < stage.from.len() {
            return None;
        }
        let inputs = feeders.iter().map(|feeder| {
            let name = self.pipeline.stages.get(*feeder)?.name.value.as_str();
            Some((name, self.contracts.get(*feeder)?.clone()?))
        });
        inputs.collect()
    }

    fn hole(&self, stage: &config::Stage) -> Hole {
        self.holes.get(&stage.name.value).copied().unwrap_or_default()
    }

    /// Puts one stage in its place, all that feed it being in theirs. Of those that go round in circles it says what
    /// else is wrong with them.
    fn stage(&mut self, index: usize) -> Option<Stage> {
        let pipeline = self.pipeline;
        let stage = pipeline.stages.get(index)?;
        let counts = self.count(index, stage);
        if let Some(slot) = self.counts.get_mut(index) {
            *slot = counts;
        }
        let inputs = self.inputs(index, stage);
        let (work, contract) = self.work(stage, inputs.as_deref());
        let has_state = matches!(&work, Some(Work::Sql(query)) if query.has_state());
        match (&work, &stage.work) {
            (Some(Work::Sql(query)), config::Work::Sql(sql)) if has_state => self.check_state(index, stage, sql, query),
            // What a sink cannot have was said already.
            (Some(Work::Sink(_)), _) => {}
            (Some(_), _) => self.refuse_limits(stage),
            (None, _) => {}
        }
        if let Some(slot) = self.contracts.get_mut(index) {
            slot.clone_from(&contract);
        }
        let Some(contract) = contract else {
            for event in &stage.events {
                contract::syntax(self.engine, &event.sql, &pipeline.text, &mut self.faults);
            }
            return None;
        };
        let key = self.key(stage, &contract);
        let key = self.key_of_replaced(stage, &contract, key);
        let event_time = stage.event_time.as_ref();
        let event_time = event_time.and_then(|it| contract::event_time(&contract, it, &mut self.faults));
        let times_of_inputs = self.times_of_inputs(index);
        let time = event_time.map(|time| time.column).or_else(|| inherited(work.as_ref()?, &times_of_inputs));
        if let Some(slot) = self.times.get_mut(index) {
            *slot = time;
        }
        if let Some(Some(slot)) = self.contracts.get_mut(index) {
            slot.time = time;
        }
        let events = self.events(stage, &contract);
        let full_name = format!("{}.{}", prefix(pipeline), stage.name.value);
        let topics = topics(&full_name, counts, self.retention(stage), has_state);
        Some(Stage {
            name: stage.name.value.as_str().into(),
            full_name: full_name.into(),
            from: stage.from.iter().map(|name| name.value.as_str().into()).collect(),
            work: work?,
            schema: contract.schema,
            key,
            event_time,
            time,
            times_of_inputs,
            state_limit: stage.state_limit.as_ref().map_or(STATE_LIMIT, |limit| limit.value as usize),
            is_heard: false,
            slo: self.objective(stage, time),
            is_live: false,
            events,
            format: stage.format,
            tasks: counts.tasks,
            partitions: counts.partitions,
            topics,
        })
    }

    /// What is promised of a stage whose results have their event times in that column.
    fn objective(&mut self, stage: &config::Stage, time: Option<usize>) -> Option<Objective> {
        let is_sink = matches!(stage.work, config::Work::Sink(_));
        let slo = stage.slo.as_ref().or(self.pipeline.slo.as_ref().filter(|_| is_sink))?;
        if time.is_none() {
            let name = quoted(&stage.name);
            let message =
                format!("nobody can say how old the rows of {name} are: when their events happened is not known");
            let help = "say it where they come from, event_time = { column = \"…\" }, and let that column through unchanged; \
                        or give the promise to a stage that has it: [stages.NAME.slo]";
            self.faults.push(Fault::new(slo.span.clone(), message).help(help));
        }
        let config::Slo { lag, loss, target } = slo.value;
        let micros = |most: Duration| Micros::try_from(most.as_micros()).unwrap_or(Micros::MAX);
        Some(Objective { lag: lag.map(|lag| (lag.quantile, micros(lag.most))), loss, target })
    }

    fn times_of_inputs(&self, index: usize) -> Vec<Option<usize>> {
        let feeders = self.feeders.get(index).into_iter().flatten();
        feeders.map(|feeder| self.times.get(*feeder).copied().flatten()).collect()
    }

    /// How the rows are spread that feed a stage.
    fn spread(&self, index: usize) -> Vec<Spread<'a>> {
        let feeders = self.feeders.get(index).into_iter().flatten();
        let spread = feeders.filter_map(|feeder| {
            let stage = self.pipeline.stages.get(*feeder)?;
            let contract = self.contracts.get(*feeder)?.as_ref()?;
            // A key that does not exist was found already.
            let key = stage.key.iter().filter_map(|name| contract.schema.index_of(&name.value).ok()).collect();
            Some(Spread { name: &stage.name.value, key, partitions: self.counts.get(*feeder)?.partitions })
        });
        spread.collect()
    }

    /// That a stage that keeps nothing has no limits of what it keeps.
    fn refuse_limits(&mut self, stage: &config::Stage) {
        let limits = [stage.state_limit.as_ref().map(|it| &it.span), stage.state_ttl.as_ref().map(|it| &it.span)];
        for span in limits.into_iter().flatten() {
            let message = "the stage keeps no rows from one to the next, and so nothing that would be limited";
            self.faults.push(Fault::new(span.clone(), message).help("leave it out"));
        }
    }

    /// That what a query keeps has an end, and that rows which are put together come to one task.
    fn check_state(&mut self, index: usize, stage: &config::Stage, sql: &config::Sql, query: &Query) {
        let timeless = windows::timeless(&self.pipeline.stages, &self.feeders, index);
        let ttl = stage.state_ttl.as_ref();
        let (span, never) = match (query.is_windowed(), ttl) {
            (true, _) => (&sql.span, "its windows would never close"),
            (false, Some(ttl)) => (&ttl.span, "no time would ever pass"),
            (false, None) => (&sql.span, ""),
        };
        if let Some(source) = timeless.filter(|_| !never.is_empty()) {
            let message = format!("{never}: {} does not say when its events happen", quoted(&source.name));
            let help = format!(
                "say it there: event_time = {{ column = \"…\", out_of_orderness = \"1m\" }} in [stages.{}]",
                source.name.value
            );
            self.faults.push(Fault::new(span.clone(), message).help(help));
        }
        if let Some(ttl) = ttl.filter(|_| query.is_windowed()) {
            let fault = Fault::new(ttl.span.clone(), "windows are kept until they close, however long that is");
            self.faults.push(fault.help("leave it out"));
        }
        let found = query.spread_faults(&self.spread(index));
        self.faults.extend(found.into_iter().map(|fault| contract::of_sql(sql, &self.pipeline.text, fault)));
    }

    /// The key of results that replace one another: what tells them apart, or a part of that.
    fn key_of_replaced(&mut self, stage: &config::Stage, contract: &Contract, key: Vec<usize>) -> Vec<usize> {
        let (Some(identity), config::Work::Sql(_)) = (&contract.identity, &stage.work) else { return key };
        let is_plain = |column: &usize| !contract.schema.field(*column).data_type().is_nested();
        if stage.key.is_empty() {
            return if identity.iter().all(is_plain) { identity.clone() } else { key };
        }
        let columns: Vec<&str> = identity.iter().map(|column| contract.schema.field(*column).name().as_str()).collect();
        let apart = columns.join("`, `");
        for (name, column) in stage.key.iter().zip(&key).filter(|(_, column)| !identity.contains(column)) {
            let shown = if contract.secret { "other columns".to_owned() } else { format!("`{apart}`") };
            let message = format!(
                "results replace one another by {shown}, and `{}` can be another one then: in another partition, nobody would know \
                 which is the latest",
                contract.schema.field(*column).name()
            );
            let fault = Fault::new(name.span.clone(), message);
            self.faults
                .push(fault.help("take the key from among these columns, or leave it out: they are the key then"));
        }
        if stage.format == config::Format::Json
            && key.len() < identity.len()
            && let Some(first) = stage.key.first()
        {
            let fault = Fault::new(
                first.span.clone(),
                "a message replaces the one before it of the same key, and this is a part of it",
            );
            self.faults.push(fault.help(format!("name all columns that tell results apart: `{apart}`")));
        }
        key
    }

    /// The key of a stage's results, or of the messages that a sink writes.
    fn key(&mut self, stage: &config::Stage, contract: &Contract) -> Vec<usize> {
        let config::Work::Sink(sink) = &stage.work else {
            return contract::key(contract, &stage.key, &mut self.faults);
        };
        let config::Sink::Topic(topic) = &sink.value else { return Vec::new() };
        let key = contract::key(contract, &topic.key, &mut self.faults);
        if let Some(name) = &topic.tombstone {
            others::tombstone(contract, name, &key, &mut self.faults);
        }
        key
    }

    fn retention(&self, stage: &config::Stage) -> Retention {
        stage.retention.unwrap_or(self.pipeline.bus.retention())
    }

    fn count(&mut self, index: usize, stage: &config::Stage) -> Counts {
        let feeders = self.feeders.get(index).map_or(&[][..], Vec::as_slice);
        let widest = feeders.iter().filter_map(|feeder| self.counts.get(*feeder)).map(|counts| counts.partitions).max();
        let widest = widest.unwrap_or(1);
        let place = match stage.work {
            config::Work::Source(Spanned { value: config::Source::Nexmark(_), .. }) => Place::Generator,
            config::Work::Source(_) => Place::Source,
            config::Work::Sql(_) => Place::Middle(widest),
            config::Work::Sink(_) => Place::Sink(widest),
        };
        let wanted = stage.partitions.as_ref();
        match partitions::counts(place, wanted.map(|it| it.value), !stage.key.is_empty()) {
            Ok(counts) => counts,
            Err(TooFew { tasks }) => {
                let span = wanted.map_or_else(|| stage.name.span.clone(), |wanted| wanted.span.clone());
                let message = format!("without a `key`, rows stay in the {tasks} partitions they come in");
                let help = format!("add a `key`, which says where each row goes, or ask for at least {tasks}");
                self.faults.push(Fault::new(span, message).label("too few").help(help));
                Counts { tasks, partitions: tasks }
            }
        }
    }

    /// What the stage does, and the contract of its results as far as it is known.
    fn work(&mut self, stage: &config::Stage, inputs: Option<&[(&str, Contract)]>) -> (Option<Work>, Option<Contract>) {
        let known = !self.hole(stage).work;
        match &stage.work {
            config::Work::Source(source) => {
                let contract = match &source.value {
                    config::Source::Nexmark(nexmark) => {
                        Some(Contract::of(connector::nexmark::schema(nexmark.event), false))
                    }
                    _ => self.declared(stage),
                };
                if let Some(contract) = contract.as_ref().filter(|_| known) {
                    match &source.value {
                        config::Source::Lines(lines) => {
                            contract::fits_lines(contract, lines.format, &stage.schema, &source.span, &mut self.faults);
                        }
                        config::Source::Topic(topic) => others::parts(contract, &topic.columns, &mut self.faults),
                        config::Source::Nexmark(_) => {}
                    }
                }
                (Some(Work::Source(source.value.clone())), contract)
            }
            config::Work::Sql(sql) => {
                let declared = self.declared(stage);
                let query = match inputs.filter(|_| known) {
                    Some(inputs) => self.query(sql, inputs, stage, declared.as_ref()),
                    None if known => {
                        contract::syntax(self.engine, sql, &self.pipeline.text, &mut self.faults);
                        None
                    }
                    None => None,
                };
                let (query, derived) = query.unzip();
                let is_declared = !stage.schema.is_empty() || self.hole(stage).schema;
                (query.map(Work::Sql), if is_declared { declared } else { derived })
            }
            config::Work::Sink(sink) => {
                let contract = inputs.and_then(|inputs| contract::merged(&stage.from, inputs, &mut self.faults));
                if let (Some(contract), true, config::Sink::Lines(lines)) = (&contract, known, &sink.value) {
                    contract::fits_lines(contract, lines.format, &[], &sink.span, &mut self.faults);
                }
                (Some(Work::Sink(sink.value.clone())), contract)
            }
        }
    }

    /// The contract that the stage declares, if it does.
    fn declared(&mut self, stage: &config::Stage) -> Option<Contract> {
        if stage.schema.is_empty() {
            return None;
        }
        let schema = contract::declared(self.engine, &stage.schema, &self.pipeline.text, &mut self.faults)?;
        Some(Contract::of(schema, false))
    }

    /// The query of a stage, under the contract that it declares if it does.
    fn query(
        &mut self,
        sql: &config::Sql,
        inputs: &[(&str, Contract)],
        stage: &config::Stage,
        declared: Option<&Contract>,
    ) -> Option<(Query, Contract)> {
        let keep = Keep {
            ttl: stage.state_ttl.as_ref().map(|ttl| Micros::try_from(ttl.value.as_micros()).unwrap_or(Micros::MAX)),
        };
        let planned = Planned { sql, inputs, text: &self.pipeline.text, keep };
        let mut query = planned.plan(self.engine, &mut self.faults)?;
        if let Some(declared) = declared {
            query = planned.under(query, &declared.schema, &stage.schema, &mut self.faults)?;
        }
        query = self.also(query, stage)?;
        let identity = query.identity().map(<[usize]>::to_vec);
        let contract = Contract { identity, ..Contract::of(Arc::clone(&query.schema), planned.secret()) };
        Some((query, contract))
    }

    /// The query with what its windows yield besides their results, as the stage says it.
    fn also(&mut self, mut query: Query, stage: &config::Stage) -> Option<Query> {
        let kept = stage.corrects_for.as_ref();
        if let Some(place) = kept.map(|kept| &kept.span).or(stage.emits_early.as_ref().map(|early| &early.span)) {
            let corrects_for = kept.map(|kept| i64::try_from(kept.value.as_nanos()).unwrap_or(i64::MAX));
            let also = Also { early: stage.emits_early.is_some(), corrects_for };
            query = match query.with(also) {
                Ok(query) => query,
                Err(fault) => {
                    self.faults.push(Fault::new(place.clone(), fault.message).maybe_help(fault.help));
                    return None;
                }
            };
        }
        if let Some(early) = stage.emits_early.as_ref().filter(|_| stage.key.is_empty()) {
            let fault = Fault::new(
                early.span.clone(),
                "each early result replaces the last one, and without a `key` nobody can tell which",
            );
            self.faults.push(fault.help("say what tells the results of a window apart: key = [\"window_start\", …]"));
        }
        Some(query)
    }

    /// The domain events of a stage: queries over its own results.
    fn events(&mut self, stage: &config::Stage, contract: &Contract) -> Vec<(Arc<str>, Query)> {
        // An event is about a result that was published, whatever becomes of it later.
        let inputs = [(stage.name.value.as_str(), Contract { identity: None, ..contract.clone() })];
        let mut events = Vec::new();
        for event in &stage.events {
            let keep = Keep::default();
            let planned = Planned { sql: &event.sql, inputs: &inputs, text: &self.pipeline.text, keep };
            match planned.plan(self.engine, &mut self.faults) {
                Some(query) if query.has_state() => {
                    let fault =
                        Fault::new(event.sql.span.clone(), "an event is about one result, and this is about several");
                    self.faults.push(fault.help("give the query a stage of its own, and that stage the event"));
                }
                Some(query) => events.push((event.name.value.as_str().into(), query)),
                None => {}
            }
        }
        events
    }
}
