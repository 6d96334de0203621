"""A server that scores pictures for craft, the better they compress: python3 http_reward.py 8000"""
import base64, http.server, json, sys

class Scorer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        scores = [-len(base64.b64decode(item["image"])) / 1000 for item in items]  # and item["prompt"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"scores": scores}).encode())

server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Scorer)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
