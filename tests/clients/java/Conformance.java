import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** clickhouse-jdbc against the server in PODTAP_TEST_CLICKHOUSE_URL, in the database named by the first argument. */
public final class Conformance {
    private static final String URL = "jdbc:clickhouse:" + System.getenv("PODTAP_TEST_CLICKHOUSE_URL");

    private interface Action {
        void run() throws Exception;
    }

    private static Connection connect(String database, String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "default");
        // Unset, the driver sends the word "null".
        properties.setProperty("password", "");
        properties.setProperty("database", database);
        for (int at = 0; at < options.length; at += 2) {
            properties.setProperty(options[at], options[at + 1]);
        }
        return DriverManager.getConnection(URL, properties);
    }

    private static void same(String what, Object got, Object expected) {
        if (!String.valueOf(got).equals(String.valueOf(expected))) {
            System.err.println(what + ": got " + got + ", expected " + expected);
            System.exit(1);
        }
        System.out.println("ok " + what);
    }

    private static void fails(String what, String words, Action action) {
        try {
            action.run();
        } catch (Exception error) {
            StringBuilder text = new StringBuilder();
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                text.append(cause).append('\n');
                if (cause instanceof SQLException exception) {
                    text.append("vendor code ").append(exception.getErrorCode()).append('\n');
                }
            }
            same(what, words.isEmpty() || text.indexOf(words) >= 0 ? "error" : text.toString(), "error");
            return;
        }
        same(what, "none", "error");
    }

    private static String one(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    private static long drain(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            long count = 0;
            while (rows.next()) {
                count += 1;
            }
            return count;
        }
    }

    public static void main(String[] arguments) throws Exception {
        String database = arguments[0];
        try (Connection admin = connect("default"); Statement statement = admin.createStatement()) {
            statement.execute("CREATE DATABASE " + database);
        }
        try (Connection connection = connect(database)) {
            tables(connection);
            for (String on : new String[] {"false", "true"}) {
                many(database, on);
            }
            errors(connection);
            together(database, connection);
            same("a million rows", drain(connection, "SELECT number, toString(number) FROM numbers(1000000)"), 1_000_000);
        }
        try (Connection admin = connect("default"); Statement statement = admin.createStatement()) {
            statement.execute("DROP DATABASE " + database);
        }
        // The driver's threads would keep the process.
        System.exit(0);
    }

    private static void tables(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE t (id UInt64, name String, at DateTime('UTC')) ENGINE = MergeTree ORDER BY id");
            statement.executeUpdate("INSERT INTO t VALUES (1, 'a''\\\\;', '2026-01-02 03:04:05')");
        }
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO t (id, name) VALUES (?, ?)")) {
            insert.setLong(1, 2);
            insert.setString(2, "it's \\ \t ü");
            insert.executeUpdate();
        }
        try (PreparedStatement select = connection.prepareStatement("SELECT id, name, at FROM t WHERE id >= ? ORDER BY id")) {
            select.setInt(1, 1);
            try (ResultSet rows = select.executeQuery()) {
                rows.next();
                same("an insert as text", rows.getLong("id") + rows.getString("name") + rows.getString("at"), "1a'\\;2026-01-02 03:04:05");
                rows.next();
                same("a prepared insert", rows.getString(2), "it's \\ \t ü");
            }
        }
        same("tables in the metadata", one(connection, "SELECT count() FROM system.columns WHERE table = 't' AND database = currentDatabase()"), 3);
        try (ResultSet tables = connection.getMetaData().getTables(null, connection.getSchema(), "t", null)) {
            same("tables by the driver", tables.next() ? tables.getString("TABLE_NAME") : "none", "t");
        }
        try (Statement statement = connection.createStatement()) {
            try (ResultSet rows = statement.executeQuery("SELECT [1, 2], map('a', 1), toDecimal64(1.25, 2), CAST(NULL, 'Nullable(Int8)'), generateUUIDv4()")) {
                rows.next();
                rows.getInt(4);
                same("types", rows.getBigDecimal(3) + " " + rows.wasNull() + " " + rows.getObject(5).getClass().getSimpleName(), "1.25 false UUID");
            }
        }
    }

    private static void many(String database, String compressed) throws SQLException {
        try (Connection connection = connect(database, "compress", compressed, "decompress", compressed)) {
            try (Statement statement = connection.createStatement()) {
                statement.execute("CREATE OR REPLACE TABLE many (n UInt64, s String) ENGINE = MergeTree ORDER BY n");
            }
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO many (n, s) VALUES (?, ?)")) {
                for (int n = 0; n < 100_000; n += 1) {
                    insert.setLong(1, n);
                    insert.setString(2, "row " + n);
                    insert.addBatch();
                }
                insert.executeBatch();
            }
            same("100000 rows there and back, compression " + compressed, drain(connection, "SELECT n, s FROM many"), 100_000);
            same("their sum", one(connection, "SELECT sum(n) FROM many"), 4999950000L);
        }
    }

    private static void errors(Connection connection) {
        fails("unknown table", "vendor code 60", () -> drain(connection, "SELECT * FROM nowhere"));
        fails("syntax error", "62", () -> drain(connection, "SELECT 1 +"));
        fails("an error in the middle of a stream", "",
            () -> drain(connection, "SELECT throwIf(number = 4000000), repeat('x', 20) FROM numbers(5000000)"));
        try {
            same("the connection works after it", one(connection, "SELECT 1"), 1);
        } catch (SQLException error) {
            same("the connection works after it", error, 1);
        }
    }

    private static void together(String database, Connection connection) throws Exception {
        CompletableFuture<Long> slow = CompletableFuture.supplyAsync(() -> {
            try (Connection other = connect(database)) {
                return drain(other, "SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1");
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
        });
        Thread.sleep(500);
        long begun = System.nanoTime();
        one(connection, "SELECT 1");
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("INSERT INTO many VALUES (1, 'beside')");
        }
        long milliseconds = (System.nanoTime() - begun) / 1_000_000;
        same("a query and an insert beside a long query", (milliseconds < 1000) + " " + slow.isDone(), "true false");
        same("the long query ends", slow.get(30, TimeUnit.SECONDS), 3);
    }
}
