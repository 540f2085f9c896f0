import java.nio.file.Files;
import java.util.Properties;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;

/** The filter of the benchmark for Kafka Streams, exactly once, with its defaults otherwise. */
public final class Filter {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[1]);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, arguments[4]);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("streams").toString());
        properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");

        Serde<JsonNode> json = Serdes.serdeFrom((topic, row) -> text(row), (topic, bytes) -> row(bytes));
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[2], Consumed.with(Serdes.ByteArray(), json))
            .filter((key, row) -> row.path("qty").asLong() > 1)
            .to(arguments[3], Produced.with(Serdes.ByteArray(), json));

        KafkaStreams streams = new KafkaStreams(builder.build(), properties);
        streams.start();
        while (System.in.read() != -1) { }
        streams.close();
    }

    private static JsonNode row(byte[] bytes) {
        try {
            return JSON.readTree(bytes);
        } catch (java.io.IOException error) {
            throw new RuntimeException(error);
        }
    }

    private static byte[] text(JsonNode row) {
        try {
            return JSON.writeValueAsBytes(row);
        } catch (JsonProcessingException error) {
            throw new RuntimeException(error);
        }
    }
}
