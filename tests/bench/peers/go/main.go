// Peer: what an engineer writes in Go. net/http, a goroutine and a buffered channel per viewer, one PSUBSCRIBE.
// What waits for a viewer is written at once; a viewer that lags by 1,024 events is closed. No login, no heartbeat, no
// resume. Usage: peer PORT REDIS_URL
package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/coder/websocket"
	"github.com/redis/go-redis/v9"
)

type room struct {
	lock    sync.RWMutex
	viewers map[string]map[chan string]struct{} // by job
}

func (room *room) enter(job string) chan string {
	viewer := make(chan string, 1024)
	room.lock.Lock()
	defer room.lock.Unlock()
	if room.viewers[job] == nil {
		room.viewers[job] = map[chan string]struct{}{}
	}
	room.viewers[job][viewer] = struct{}{}
	return viewer
}

func (room *room) leave(job string, viewer chan string) {
	room.lock.Lock()
	defer room.lock.Unlock()
	if _, here := room.viewers[job][viewer]; here {
		delete(room.viewers[job], viewer)
		close(viewer)
	}
}

func (room *room) publish(job, event string) {
	var slow []chan string
	room.lock.RLock()
	for viewer := range room.viewers[job] {
		select {
		case viewer <- event:
		default:
			slow = append(slow, viewer)
		}
	}
	room.lock.RUnlock()
	for _, viewer := range slow {
		room.leave(job, viewer)
	}
}

func (room *room) sse(answer http.ResponseWriter, request *http.Request) {
	job := request.PathValue("job")
	viewer := room.enter(job)
	defer room.leave(job, viewer)
	answer.Header().Set("Content-Type", "text/event-stream")
	answer.Write([]byte(": welcome\n\n"))
	control := http.NewResponseController(answer)
	control.Flush()
	for {
		select {
		case event, open := <-viewer:
			for waits := true; open && waits; {
				answer.Write([]byte("data: " + event + "\n\n"))
				select {
				case event, open = <-viewer:
				default:
					waits = false
				}
			}
			if !open || control.Flush() != nil {
				return
			}
		case <-request.Context().Done():
			return
		}
	}
}

func (room *room) websocket(answer http.ResponseWriter, request *http.Request) {
	socket, err := websocket.Accept(answer, request, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer socket.CloseNow()
	job := request.PathValue("job")
	viewer := room.enter(job)
	defer room.leave(job, viewer)
	left := socket.CloseRead(request.Context())
	for {
		select {
		case event, open := <-viewer:
			if !open || socket.Write(left, websocket.MessageText, []byte(event)) != nil {
				return
			}
		case <-left.Done():
			return
		}
	}
}

func main() {
	options, err := redis.ParseURL(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	room := &room{viewers: map[string]map[chan string]struct{}{}}
	events := redis.NewClient(options).PSubscribe(context.Background(), "job:*:events")
	if _, err := events.Receive(context.Background()); err != nil {
		log.Fatal(err)
	}
	go func() {
		for message := range events.Channel(redis.WithChannelSize(10_000)) {
			job := strings.TrimSuffix(strings.TrimPrefix(message.Channel, "job:"), ":events")
			room.publish(job, message.Payload)
		}
	}()
	http.HandleFunc("GET /sse/{job}", room.sse)
	http.HandleFunc("GET /ws/{job}", room.websocket)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
