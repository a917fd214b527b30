import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Requests by the two clients of the JDK through a proxy: PROXY_PORT SERVER_PORT. Prints the bodies. */
class JdkClient {
    public static void main(String[] args) throws Exception {
        var proxy = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        var server = "127.0.0.1:" + args[1];

        var url = new URL("http://user:secret@" + server + "/url-connection?a=%7e");
        var get = (HttpURLConnection) url.openConnection(new Proxy(Proxy.Type.HTTP, proxy));
        System.out.println(new String(get.getInputStream().readAllBytes()));

        var post = (HttpURLConnection) new URL("http://" + server + "/post").openConnection(new Proxy(Proxy.Type.HTTP, proxy));
        post.setDoOutput(true);
        post.setChunkedStreamingMode(0);
        try (OutputStream body = post.getOutputStream()) {
            body.write("hello".getBytes());
        }
        System.out.println(new String(post.getInputStream().readAllBytes()));

        var client = HttpClient.newBuilder().proxy(ProxySelector.of(proxy)).build();
        var request = HttpRequest.newBuilder(URI.create("http://" + server + "/http-client")).build();
        System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
