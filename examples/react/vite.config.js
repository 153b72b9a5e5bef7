import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// `npm run dev` passes the API on to examples/mount.py.
export default defineConfig({
  base: "./",
  plugins: [react()],
  resolve: { dedupe: ["react"] }, // push-hub is a folder beside this one here, which has no react of its own
  server: { proxy: { "/api": { target: "http://127.0.0.1:8000", ws: true } } },
});
